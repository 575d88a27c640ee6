"""Images: decoding from files, folders, archives and IDX files, resizing, caching."""
