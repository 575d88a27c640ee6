"""The report of a run: one page, in one file, without network."""
