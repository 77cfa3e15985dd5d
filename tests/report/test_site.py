"""What `arspm dashboard` serves of a run, an ablation, and a folder of runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from arspm import storage
from arspm.config.presets import preset
from arspm.report import site, site_files
from arspm.runs import stages
from tests.report.serving import PAGE, Client, Serve, write_sweep


def write_run(run: str, *done: str) -> str:
    """Write a run with these stages, a page, portraits, an ablation, a study and two variants."""
    for stage in done:
        stages.commit(run, stage, fingerprint="f" * 64, config=preset("smoke"), files={}, seconds=1.0, figures={})
    for path in ("report", "ablation", "study-prior", "_variants/neutral-0/report"):
        storage.write_bytes(f"{run}/{path}/index.html", path.encode())
    storage.write_bytes(f"{run}/_variants/none-0/encoder/model.safetensors", b"weights")
    storage.write_json(f"{run}/live.json", {"state": "running"})
    for path in ("decoder/epochs/00001.jpg", "decoder/epochs/real.jpg", "encoder/epochs/00012.jpg"):
        storage.write_bytes(f"{run}/{path}", path.encode())
    return run


def links(get: Client, path: str = "/") -> dict[str, str]:
    """Return the links of a page: text -> relative URL."""
    text = get(path).body.decode()
    return {name: target for target, name in re.findall(r'<a href="(.*?)">(.*?)</a>', text)}


def test_a_run_is_served_with_its_page_comparisons_variants_and_sweeps(tmp_path: Path, serve: Serve) -> None:
    run = write_run(str(tmp_path / "one & two"), "preprocess", "vggface")
    write_sweep(run)
    get = serve(run)
    index = get("/").body.decode()
    assert "<h1>Run one &amp; two</h1>" in index
    assert "Incomplete: 2 of 10 stages are done." in index
    found = links(get)
    assert found == {
        "Live page": "report/index.html",
        "Ablation": "ablation/index.html",
        "Study prior": "study-prior/index.html",
        "Report of the variant neutral-0": "_variants/neutral-0/report/index.html",
        "loss_weights": "sweeps/loss_weights/",
    }
    for target in found.values():
        page = get(f"/{target}")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert page.body == (PAGE if "sweeps" in target else target.removesuffix("/index.html").encode())
    assert get("/report/").body == b"report"
    assert get("/ablation/").body == b"ablation"
    assert json.loads(get("/live.json").body) == {"state": "running"}
    for path in ("decoder/epochs/00001.jpg", "decoder/epochs/real.jpg", "encoder/epochs/00012.jpg"):
        assert (get(f"/{path}").body, get(f"/{path}").headers["content-type"]) == (path.encode(), "image/jpeg")
    assert get("/decoder/epochs/00002.jpg").status == get("/_variants/other/report/").status == 404
    for path in ("/", "/live.json", "/report/", "/decoder/epochs/real.jpg"):
        assert get.stranger(path).status == 403


def test_a_done_run_has_a_report_and_one_without_a_page_reloads(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    monkeypatch.setattr(site, "NAMES_SECONDS", 0.0)
    run = write_run(str(tmp_path), *stages.STAGES)
    get = serve(run)
    assert links(get)["Report"] == "report/index.html"
    assert "Done: 10 of 10 stages are done." in get("/").body.decode()
    Path(run, "report", "index.html").unlink()
    assert "Report" not in links(get)
    waiting = get("/report/index.html")
    assert waiting.status == 200
    assert b"is being replaced by the report" in waiting.body
    assert b'http-equiv="refresh"' in waiting.body


def test_an_ablation_is_served_with_the_run_that_it_links_to(tmp_path: Path, serve: Serve) -> None:
    run = write_run(str(tmp_path))
    for name in ("ablation", "study-prior"):
        get = serve(f"{run}/{name}")
        assert (get("/").status, get("/").headers["location"]) == (302, f"{name}/")
        assert get(f"/{name}/").body == name.encode()
        assert get("/report/index.html").body == b"report"


def test_the_runs_below_a_folder_are_listed_and_served(tmp_path: Path, serve: Serve) -> None:
    write_run(f"{tmp_path}/a", "preprocess")
    write_sweep(write_run(f"{tmp_path}/team/<b>", *stages.STAGES))
    storage.write_bytes(f"{tmp_path}/notes/readme.txt", b"no run")
    get = serve(str(tmp_path))
    text = get("/").body.decode()
    assert "<b>" not in text
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in text.split("<tr>")[2:]]
    assert [row[1:] for row in rows] == [["incomplete", "1 of 10", ""], ["done", "10 of 10", "loss_weights"]]
    first, second = links(get).values()
    assert (first, second) == ("a/", "team%2F%3Cb%3E/")
    assert get(f"/{first}report/").body == b"report"
    assert get(f"/{second}sweeps/loss_weights/").body == PAGE
    assert get(f"/{second}").status == 200
    for path in ("/a", "/notes/", "/team/", "/b/", "/a/../team/", "/report/"):
        assert get(path).status == 404


def test_a_run_in_a_bucket_is_served(s3: str, serve: Serve) -> None:
    run = write_run(storage.join(s3, "site", "run"), "preprocess")
    get = serve(run)
    assert "Live page" in links(get)
    assert get("/report/").body == b"report"
    assert get("/encoder/epochs/00012.jpg").body == b"encoder/epochs/00012.jpg"
    assert list(links(serve(storage.join(s3, "site")))) == ["run"]
