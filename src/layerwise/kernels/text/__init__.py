"""Compiled loops over text: tokens, pairs of words, and the learning of word vectors."""
