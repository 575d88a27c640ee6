"""Images: decoded from files, folders, archives and IDX files, brought to a size, cached."""
