"""Where examples come from: sources, readers, splits, named data sets, loaders."""
