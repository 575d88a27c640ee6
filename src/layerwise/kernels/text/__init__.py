"""Compiled loops over text and word vectors. A token stream is an array of word indices ≥ 0 and these two markers."""

from __future__ import annotations

END = -1  # ends a sentence; no window reaches over it
GAP = -2  # a word that is not in the vocabulary; windows close over it, as in word2vec
