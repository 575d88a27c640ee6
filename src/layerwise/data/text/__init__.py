"""Text: tokens, corpora and co-occurrence counts on disk, from files and streams."""
