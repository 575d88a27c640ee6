"""The cases, one file each, found by name. Each file has a ``CASE``."""
