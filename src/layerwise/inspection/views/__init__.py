"""The views, one file each; `layerwise.inspection` knows their names without importing them."""
