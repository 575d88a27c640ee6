"""Uses of finished vectors: queries of words, benchmarks, maps between languages, and an index of texts with search."""
