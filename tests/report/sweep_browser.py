"""Helpers of the sweep page's browser tests."""

from collections.abc import Callable
from typing import Any

from tests.report.conftest import Opened

DRAW_ALL = "dispatchEvent(new Event('beforeprint'))"  # charts are drawn when scrolled near, or before printing
COME_BACK = (
    "document.dispatchEvent(new Event('visibilitychange'))"  # makes the page refresh immediately instead of after 15 s
)
NUMBERS = "[...document.querySelectorAll('#trial-table tbody label')].map(e => +e.innerText)"

Open = Callable[..., Opened]


def header(page: Any, column: str) -> Any:
    return page.locator(f"#trial-table th[data-column='{column}'] button")


def traces(page: Any, container: str) -> list[dict[str, Any]]:
    """Return the traces of a chart: name, mode, x, y, hover texts, colours and error bars."""
    page.evaluate(DRAW_ALL)
    script = """e => e.data.map(({ name, mode, x, y, customdata, marker, error_x }) =>
      ({ name, mode, x, y, hover: customdata, color: marker?.color, array: error_x?.array }))"""
    return list(page.locator(f"{container} .chart").first.evaluate(script))
