"""Compiled in-place loops for rules without gradients. They release the GIL and take their random state as an argument."""
