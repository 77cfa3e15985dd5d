"""Talking clips to corpus: decode, find faces, make spectrograms, write aligned Parquet shards."""

from arspm.distributed.data.preprocess import preprocess
from jobs.stage import main

if __name__ == "__main__":
    main("preprocess", preprocess)
