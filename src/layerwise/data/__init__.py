"""Data: sources, readers, splits, named data sets and loaders."""
