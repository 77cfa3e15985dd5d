"""Hook of mkdocs: links from a page to files outside `docs/` become the file's path, since the site has pages only."""

import posixpath
import re
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the page's Markdown with `[words](../path)` as "words (`path`)", without repeating equal words."""

    def path_only(link: re.Match[str]) -> str:
        words, target = link["words"], posixpath.normpath(link["target"].removeprefix("../"))
        return f"`{target}`" if words.strip("`") in (target, posixpath.basename(target)) else f"{words} (`{target}`)"

    return re.sub(r"\[(?P<words>[^\]]+)\]\((?P<target>\.\./[^)#]+)(?:#[^)]*)?\)", path_only, markdown)
