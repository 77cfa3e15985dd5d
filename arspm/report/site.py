"""What `arspm dashboard` serves: pages of a run, an ablation, a sweep or a folder of runs, and the files they fetch.

The paths are those of the run's folder, so links between pages work as on disk:

                                  a list of the run's pages, variants and sweeps
live.json                         the state of the run, for its live page
report/                           the run's page
STAGE/epochs/00012.jpg            portraits by epoch
ablation/, study-NAME/            comparisons
_variants/NAME/report/            the page of a variant
sweeps/sweeps.json                the names of the sweeps, which a page can compare
sweeps/NAME/                      a sweep's page, results, curves, and its trials' records, logs and portraits

A folder of runs has these paths below RUN/, and a list of the runs. A request can only choose among what storage
lists; apart from names that a pattern fixes, it never becomes part of a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from base64 import b64encode
from collections.abc import Callable
from html import escape
from typing import NamedTuple, Protocol
from urllib.parse import quote, unquote

from arspm import storage
from arspm.report import ablation_page, run_page, site_tables
from arspm.report.site_files import Cached, Files
from arspm.runs import drivers, find, live, stages, sweep_curves, sweeps

NAMES_SECONDS = 10.0  # between two listings of a folder
RUNS_SECONDS = 30.0  # between two searches for runs

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".jpg": "image/jpeg",
    ".log": "text/plain; charset=utf-8",
}
_SWEEP_FILES = (sweeps.PAGE, sweeps.RESULTS, sweep_curves.CURVES, sweeps.CLIPS)
_TRIAL_FILE = re.compile(rf"{sweeps.TRIALS}/[0-9]{{5,9}}\.(json|jpg|log)")
_PICTURE = re.compile(rf"({'|'.join(live.DRAWN_STAGES)})/{live.PICTURES}/([0-9]{{5,9}}|real)\.jpg")
_LIST = "sweeps.json"
_INDEX = "index.html"
_STYLE = """
:root { color-scheme: light dark; --line: #ddd9; }
body { font: 16px/1.6 system-ui, sans-serif; margin: 48px auto; max-width: 960px; padding: 0 24px; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 40px; font-size: 20px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 6px 16px 6px 0; overflow-wrap: anywhere; border-bottom: 1px solid var(--line); }
"""
_RESTRICTIONS = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
# Our pages contain stricter policies of their own. This one applies to any file of that name in the folder.
_PAGE_POLICY = f"default-src 'self' 'unsafe-inline' data: blob:; {_RESTRICTIONS}"
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
OWN_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; {_RESTRICTIONS}"


class Response(NamedTuple):
    """The response to a request. `location`: target of a redirect, with status 302. `packed`: `data`, compressed."""

    status: int
    data: bytes
    packed: bytes | None = None
    type: str = "text/plain; charset=utf-8"
    policy: str = OWN_POLICY
    location: str | None = None


_NOT_FOUND = Response(404, b"No such page. Open the URL that `arspm dashboard` printed.\n")


class Site(Protocol):
    def respond(self, path: str) -> Response:
        """Return the response to a GET; `path` is what follows the token. Raises the errors of storage."""


def open_site(uri: str) -> Site:
    """Return the pages at a URI: of a sweep, an ablation or a study, a run, or all runs below a folder.

    Raises FileNotFoundError, in one line, if there is none of them.
    """
    files = Files()
    parent, _, name = uri.rpartition("/")
    if storage.exists(storage.join(uri, sweeps.SWEEP)):
        alone = {name: uri}
        return _SweepSite(files, Cached(lambda _: alone, math.inf))
    if parent and _is_comparison(name) and storage.exists(storage.join(uri, ablation_page.PAGE)):
        return _RunSite(files, parent, home=f"{quote(name)}/")
    if find.is_run(uri):
        return _RunSite(files, uri)
    if storage.entries(uri) and find.runs_below(uri)[0]:
        return _FolderSite(files, uri)
    find.require_run(uri)
    raise AssertionError(uri)  # there is a run, then


def _is_comparison(name: str) -> bool:
    return name == drivers.ABLATION or name.startswith(drivers.STUDY)


class _Sweeps:
    """The paths below `sweeps/`."""

    def __init__(self, files: Files, names: Cached[dict[str, str]]) -> None:
        """names: the URI of each sweep by its name."""
        self._files, self._names = files, names

    def respond(self, path: str) -> Response:
        known = self._names.get()
        name, slash, file = path.partition("/")
        if name == _LIST and not slash:
            return Response(200, json.dumps(list(known)).encode(), type=_TYPES[".json"])
        name, file = unquote(name), file or sweeps.PAGE
        if slash and name in known and (file in _SWEEP_FILES or _TRIAL_FILE.fullmatch(file)):
            waiting = f"{name} has not written results yet." if file == sweeps.PAGE else ""
            return _file(self._files, known[name], file, "Waiting for the sweep", waiting)
        return _NOT_FOUND

    def table(self) -> str:
        return site_tables.sweeps_table(self._files, self._names.get())


class _SweepSite:
    """A sweep alone."""

    def __init__(self, files: Files, names: Cached[dict[str, str]]) -> None:
        self._sweeps, self._names = _Sweeps(files, names), names

    def respond(self, path: str) -> Response:
        head, _, rest = path.partition("?")[0].partition("/")
        if not head:
            return Response(302, b"", location=f"{sweeps.FOLDER}/{quote(next(iter(self._names.get())), safe='')}/")
        return self._sweeps.respond(rest) if head == sweeps.FOLDER and rest else _NOT_FOUND


class _RunSite:
    """The pages of a run. `home`: where its root leads, "" for a list of the pages."""

    def __init__(self, files: Files, run: str, home: str = "") -> None:
        self._files, self._run, self._home = files, run, home
        self._sweeps = _Sweeps(files, _listing(lambda: _sweeps_of(run)))
        self._comparisons = _listing(lambda: {name: name for name in storage.entries(run) if _is_comparison(name)})
        self._variants = _listing(lambda: _variants_of(run))
        self._links = Cached[str](lambda _: self._describe(), NAMES_SECONDS)

    def respond(self, path: str) -> Response:
        path = path.partition("?")[0]
        head, slash, rest = path.partition("/")
        if not path:
            return Response(302, b"", location=self._home) if self._home else self._index()
        if head == sweeps.FOLDER and slash:
            return self._sweeps.respond(rest) if rest else _NOT_FOUND
        if head == stages.VARIANTS:
            name, _, rest = rest.partition("/")
            variant = self._variants.get().get(unquote(name))
            return self._page(variant, rest) if variant and rest in _pages(run_page.PAGE) else _NOT_FOUND
        if path in _pages(run_page.PAGE):
            return self._page(self._run, path)
        if path == live.FILE or _PICTURE.fullmatch(path):
            return _file(self._files, self._run, path)
        comparison = self._comparisons.get().get(unquote(head))
        if comparison and slash and rest in ("", ablation_page.PAGE):
            return _file(self._files, self._run, f"{comparison}/{ablation_page.PAGE}")
        return _NOT_FOUND

    def _page(self, run: str, path: str) -> Response:
        waiting = "The page is not written yet, or is being replaced by the report."
        return _file(self._files, run, f"{path.removesuffix(_INDEX)}{_INDEX}", "Waiting for the page", waiting)

    def _index(self) -> Response:
        sweeps_found = f"<h2>Sweeps</h2>{self._sweeps.table()}"
        return _own_page(f"Run {self._run.rsplit('/', 1)[-1]}", self._links.get() + sweeps_found, 15)

    def _describe(self) -> str:
        """Return the run's state, and links to its pages and those of its variants, as HTML."""
        progress = site_tables.progress(self._run)
        pages = {run_page.PAGE: "Report" if "report" in progress.done else "Live page"}
        pages |= {
            f"{each}/{ablation_page.PAGE}": each.replace("-", " ").capitalize() for each in self._comparisons.get()
        }
        for name in self._variants.get():
            pages[f"{stages.VARIANTS}/{name}/{run_page.PAGE}"] = f"Report of the variant {name}"
        there = storage.in_threads(lambda page: storage.exists(storage.join(self._run, page)), pages)
        found = {page: text for (page, text), exists in zip(pages.items(), there, strict=True) if exists}
        return f"<p>{escape(progress.text)}</p>{site_tables.links(found, 'No page has been written yet.')}"


class _FolderSite:
    """The runs below a folder."""

    def __init__(self, files: Files, uri: str) -> None:
        self._files, self._uri = files, uri
        self._runs = Cached[dict[str, str]](lambda _: self._find(), RUNS_SECONDS)
        self._table = Cached[str](lambda _: site_tables.runs_table(self._runs.get()), RUNS_SECONDS)
        self._sites: dict[str, _RunSite] = {}

    def respond(self, path: str) -> Response:
        path = path.partition("?")[0]
        if not path:
            return _own_page(f"Runs in {self._uri.rsplit('/', 1)[-1]}", self._table.get(), 15)
        name, slash, rest = path.partition("/")
        run = self._runs.get().get(unquote(name))
        if run is None or not slash:
            return _NOT_FOUND
        return self._sites.setdefault(run, _RunSite(self._files, run)).respond(rest)

    def _find(self) -> dict[str, str]:
        return {run.removeprefix(self._uri).strip("/"): run for run in find.runs_below(self._uri)[0]}


def _listing(names: Callable[[], dict[str, str]]) -> Cached[dict[str, str]]:
    return Cached(lambda _: names(), NAMES_SECONDS)


def _sweeps_of(run: str) -> dict[str, str]:
    return {name: storage.join(run, sweeps.FOLDER, name) for name in sweeps.names(run)}


def _variants_of(run: str) -> dict[str, str]:
    names = storage.entries(storage.join(run, stages.VARIANTS))
    return {name: stages.variant_run(run, name) for name in names}


def _pages(page: str) -> tuple[str, str]:
    return page, page.removesuffix(_INDEX)


def _file(files: Files, folder: str, name: str, title: str = "", waiting: str = "") -> Response:
    """Return a file; if it does not exist, 404 or, with `waiting`, a page with that text, which reloads."""
    found = files.read(folder, name)
    if found.data is not None:
        return Response(200, found.data, found.packed, _TYPES[name[name.rindex(".") :]], _PAGE_POLICY)
    if waiting:
        return _own_page(title, f"<p>{escape(waiting)} This page reloads every few seconds.</p>", 5)
    return _NOT_FOUND


def _own_page(title: str, body: str, reload_seconds: int) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{reload_seconds}"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )
    return Response(200, text.encode(), type=_TYPES[".html"])
