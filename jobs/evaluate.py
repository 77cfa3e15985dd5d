"""Table 4, the gender judge and the pictures, on the test split."""

from arspm.distributed.evaluate import evaluate
from jobs.stage import main

if __name__ == "__main__":
    main("evaluate", evaluate)
