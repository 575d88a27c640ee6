"""Compiled in-place loops. They release the GIL and take their random state as an argument."""
