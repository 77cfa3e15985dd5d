"""The prepared corpus: its format (`schema`), and reading and writing its Parquet tables (`tables`)."""
