"""Augmentation of images, as pure functions of a batch and its draws."""
