"""Stage evaluate: the paper's tables and the portraits of the test split."""

from arspm.distributed.evaluate import evaluate
from jobs.stage import main

if __name__ == "__main__":
    main("evaluate", evaluate)
