"""Whole-or-absent files and folders, under the name that some callers know; `physdiff.atomic` owns them."""

from physdiff.atomic import replacing_file, replacing_folder

__all__ = ["replacing_file", "replacing_folder"]
