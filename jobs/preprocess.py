"""Stage preprocess: decode clips, find faces, compute spectrograms, write the corpus as aligned Parquet shards."""

from arspm.distributed.data.preprocess import preprocess
from jobs.stage import main

if __name__ == "__main__":
    main("preprocess", preprocess)
