"""The data in a sweep's page that a served page fetches when it is looked at: the curves and the portraits.

A page that is opened as a file cannot fetch them, so the written page has them all. With 1,000 trials they are 2.5 of
its 7 MB, and they do not compress.
"""

from __future__ import annotations

import json
import re

WITHOUT = {"curves": {"updated": 0, "trials": {}}, "pictures": {}}

_ELEMENT = re.compile(rb'(<script type="application/json" id="(curves|pictures)">)[^<]*(</script>)')


def without_details(page: bytes) -> bytes:
    """Return the HTML of a sweep's page without curves and portraits. Other HTML is returned as it is."""
    return _ELEMENT.sub(
        lambda found: found[1] + json.dumps(WITHOUT[found[2].decode()], separators=(",", ":")).encode() + found[3], page
    )
