"""Measurements of cost, one file each: a module with `measure() -> str`, the text that is kept beside it.

`python -m experiments.benchmarks [NAME ...]` runs them.
"""
