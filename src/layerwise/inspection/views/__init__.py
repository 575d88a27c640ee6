"""The views, one module each; `layerwise.inspection.VIEWS` lists them."""
