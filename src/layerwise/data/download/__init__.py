"""Named data sets: their addresses and checksums, and the downloader."""
