"""Data sets by name: where their files lie on the net, fetched with checksums."""
