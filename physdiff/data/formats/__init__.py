"""One file per schema: each reads a file into a `FieldData`, and may write one."""
