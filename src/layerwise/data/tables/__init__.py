"""Tables: CSV, TSV, Parquet and JSON lines, read and turned into columns."""
