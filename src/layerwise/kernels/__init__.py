"""Compiled in-place loops for rules without gradients: the GIL released, the random state an argument."""
