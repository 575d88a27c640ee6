"""The two numbers of a token stream that are no words: the end of a sentence, and a word outside the vocabulary."""

from __future__ import annotations

END = -1  # closes a sentence; no window reaches over it
GAP = -2  # a word that is not in the vocabulary; windows close over it, as in word2vec
