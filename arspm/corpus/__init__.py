"""The prepared corpus: its contract (schema), and reading and writing its Parquet tables."""
