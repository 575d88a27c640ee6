"""Text: files and streams cut into tokens, corpora and counts of pairs on disk."""
