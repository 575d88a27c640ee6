"""What is done with finished vectors: questions to words, benchmarks, maps between languages, an index of texts and its
search."""
