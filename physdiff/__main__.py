"""`python -m physdiff` is the `physdiff` command, for launchers that start modules."""

from physdiff.cli import main

main()
