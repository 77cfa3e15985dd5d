"""Stage report: the run's page with tables, charts and portraits, and its metrics as JSON."""

from typing import Any

from arspm.config import Config
from arspm.config.presets import PRESETS
from arspm.report.run_page import write_report
from jobs.stage import main


def report(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write report/index.html and report/metrics.json from the results of the other stages."""
    return write_report(config, run, PRESETS.get(config.preset))


if __name__ == "__main__":
    main("report", report)
