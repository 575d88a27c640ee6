"""Pretrained weights and word vectors: reading from files, checks, and loading into networks."""
