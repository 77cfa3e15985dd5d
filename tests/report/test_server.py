"""The server of pages, over real connections: what it serves, how often it reads storage, where it listens."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.report import server, site, site_files
from tests.report import swept
from tests.report.serving import PAGE, Client, Serve, write_sweep

REPO = Path(__file__).parents[2]


# --- what it serves


def test_a_sweep_alone_redirects_to_its_page(tmp_path: Path, serve: Serve) -> None:
    folder = write_sweep(str(tmp_path))
    get = serve(folder)
    assert (get("/").status, get("/").headers["location"]) == (302, "sweeps/loss_weights/")
    for path in ("/sweeps/loss_weights/", "/sweeps/loss_weights/index.html", "/sweeps/loss_weights/?again=1"):
        reply = get(path)
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, PAGE, "text/html; charset=utf-8")
    reply = get("/sweeps/loss_weights/results.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.body == Path(folder, "results.json").read_bytes()
    for name, value in {"cache-control": "no-cache", "x-content-type-options": "nosniff"}.items():
        assert reply.headers[name] == value


def test_a_sweeps_own_folder_is_served(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(str(tmp_path), "other")
    folder = write_sweep(str(tmp_path))
    assert serve(folder)("/sweeps/loss_weights/").body == PAGE
    assert serve(folder)("/sweeps/other/").status == 404
    monkeypatch.chdir(tmp_path)
    assert serve("sweeps/loss_weights/")("/sweeps/loss_weights/").body == PAGE


def test_several_sweeps_are_listed(tmp_path: Path, serve: Serve) -> None:
    write_sweep(str(tmp_path), "done", state="finished")
    write_sweep(str(tmp_path), "empty", trials=[], best=None)
    write_sweep(str(tmp_path), "later", page=None)
    write_sweep(str(tmp_path), "odd", trials={"a": 1})
    Path(write_sweep(str(tmp_path), "torn"), "results.json").write_bytes(b"[" * 100_000)
    get = serve(str(tmp_path))
    page = get("/")
    assert page.status == 200
    text = page.body.decode()
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in text.split("<tr>")[2:]]
    told = {re.sub("<.*?>", "", row[0]): row[1:] for row in rows}
    assert told == {
        "done": ["finished", "6 of 16", "38.12 val_cos_degrees", "2026-09-21 14:13:20 UTC"],
        "empty": ["running", "6 of 16", "", "2026-09-21 14:13:20 UTC"],
        "later": ["not started", "", "", ""],
        "odd": ["unreadable", "", "", ""],
        "torn": ["unreadable", "", "", ""],
    }
    for link in re.findall(r'href="(.*?)"', text):
        assert link.startswith("sweeps/")
        assert get(f"/{link}").status == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]


def test_the_names_of_the_sweeps_and_the_logs_of_trials_are_served(tmp_path: Path, serve: Serve) -> None:
    folder = write_sweep(str(tmp_path), "one")
    write_sweep(str(tmp_path), "two & three")
    Path(folder, "trials", "00003.log").write_text("epoch 1: \u00e4\n" * 100)
    Path(folder, "stop").mkdir()
    Path(folder, "stop", "00003.json").write_text("{}")
    get = serve(str(tmp_path))
    names = get("/sweeps/sweeps.json")
    assert (json.loads(names.body), names.headers["content-type"]) == (["one", "two & three"], "application/json")
    log = get("/sweeps/one/trials/00003.log")
    assert (log.body.decode(), log.headers["content-type"]) == ("epoch 1: \u00e4\n" * 100, "text/plain; charset=utf-8")
    assert get("/sweeps/one/trials/00003.log", Accept_Encoding="gzip").headers["content-encoding"] == "gzip"
    for path in (
        "/sweeps/one/trials/00004.log",
        "/sweeps/one/trials/x.log",
        "/sweeps/one/stop/00003.json",
        "/sweeps/one/sweeps.json",
        "/sweeps/sweeps.json/",
    ):
        assert get(path).status == 404
    assert get.stranger("/sweeps/sweeps.json").status == 403
    assert json.loads(serve(folder)("/sweeps/sweeps.json").body) == ["one"]


def test_curves_and_portraits_are_left_out_of_the_served_page(tmp_path: Path, serve: Serve) -> None:
    results = swept.loss_weights(8)
    folder = tmp_path / "sweeps" / "one"
    swept.write(str(folder), results)
    storage.write_json(str(folder / "sweep.json"), {"name": "one"})
    written = (folder / "index.html").read_text()
    page = serve(str(tmp_path))("/sweeps/one/").body.decode()

    def embedded(text: str, name: str) -> Any:
        return json.loads(text.split(f'id="{name}">')[1].split("</script>")[0])

    assert embedded(page, "results") == embedded(written, "results")
    assert len(embedded(written, "curves")["trials"]) == 8
    assert embedded(page, "curves") == {"updated": 0, "trials": {}}
    assert len(embedded(written, "pictures")) == 9
    assert embedded(page, "pictures") == {}
    assert len(page.split("<script")) == len(written.split("<script"))


def test_names_and_values_are_escaped(tmp_path: Path, serve: Serve) -> None:
    hostile = "<script>alert(1)<|script>&\"'"
    write_sweep(str(tmp_path), hostile, state="<img src=x onerror=alert(2)>")
    write_sweep(str(tmp_path), "plain")
    get = serve(str(tmp_path))
    text = get("/").body.decode()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)" in text
    [link] = [link for link in re.findall(r'href="(.*?)"', text) if "plain" not in link]
    assert re.fullmatch(r"sweeps/[A-Za-z0-9%._~-]+/", link)
    assert get(f"/{link}").body == PAGE
    (tmp_path / "sweeps" / hostile / "index.html").unlink()
    get = serve(str(tmp_path / "sweeps" / hostile))
    location = get("/").headers["location"]
    assert re.fullmatch(r"sweeps/[A-Za-z0-9%._~-]+/", location)
    assert "<script" not in get(f"/{location}").body.decode()


def test_a_sweep_without_results_gives_a_page_that_reloads(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    get = serve(write_sweep(str(tmp_path), page=None))
    waiting = get("/sweeps/loss_weights/")
    assert waiting.status == 200
    assert b"has not written results yet" in waiting.body
    assert b'http-equiv="refresh"' in waiting.body
    assert get("/sweeps/loss_weights/results.json").status == 404
    write_sweep(str(tmp_path))
    assert get("/sweeps/loss_weights/").body == PAGE
    assert get("/sweeps/loss_weights/results.json").status == 200


def test_the_style_of_its_own_pages_is_allowed_by_their_policy(tmp_path: Path, serve: Serve) -> None:
    """By its hash, computed as a browser does."""
    import base64
    import hashlib

    reply = serve(write_sweep(str(tmp_path), page=None))("/sweeps/loss_weights/")
    [style] = re.findall(rb"<style>(.*?)</style>", reply.body, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in reply.headers["content-security-policy"]


def test_the_files_of_a_trial_are_served(tmp_path: Path, serve: Serve) -> None:
    folder = Path(write_sweep(str(tmp_path)))
    for name in ("trials/00000.jpg", "clips.jpg", "curves.json.gz"):
        (folder / name).write_bytes(name.encode())
    get = serve(str(tmp_path))
    for name, kind in (
        ("trials/00000.json", "application/json"),
        ("trials/00000.jpg", "image/jpeg"),
        ("trials/00000.jpg?epoch=3", "image/jpeg"),
        ("clips.jpg", "image/jpeg"),
        ("curves.json.gz", "application/gzip"),
    ):
        reply = get(f"/sweeps/loss_weights/{name}", Accept_Encoding="gzip")
        assert (reply.status, reply.headers["content-type"]) == (200, kind)
        if not kind.endswith("json"):
            assert reply.body == name.partition("?")[0].encode()
            assert "content-encoding" not in reply.headers


def test_pages_and_json_are_compressed_for_clients_that_accept_it(tmp_path: Path, serve: Serve) -> None:
    folder = Path(write_sweep(str(tmp_path)))
    get = serve(str(tmp_path))
    for path, file in (("/sweeps/loss_weights/", "index.html"), ("/sweeps/loss_weights/results.json", "results.json")):
        data = (folder / file).read_bytes()
        plain = get(path)
        for accepted in ("gzip", "deflate, GZIP;q=0.5, br", "br, gzip"):
            packed = get(path, Accept_Encoding=accepted)
            assert packed.headers["content-encoding"] == "gzip"
            assert gzip.decompress(packed.body) == data
            assert packed.headers["etag"] != plain.headers["etag"]
            assert get(path, Accept_Encoding=accepted, If_None_Match=packed.headers["etag"]).status == 304
        for refused in ("identity", "gzip;q=0", "gzip; q=0.000, br", "gzipped", "br"):
            assert get(path, Accept_Encoding=refused).body == data
        assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


def test_few_files_are_kept_in_memory(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_files, "_MAX_FILES", 8)
    folder = Path(write_sweep(str(tmp_path)))
    pages = site._RunSite(files := site_files.Files(), str(tmp_path))
    for number in range(20):
        (folder / "trials" / f"{number:05d}.jpg").write_bytes(b"strip %d" % number)
        assert pages.respond(f"sweeps/loss_weights/trials/{number:05d}.jpg").data == b"strip %d" % number
        assert pages.respond("sweeps/loss_weights/results.json").status == 200
    assert len(files._files) == 8
    assert str(folder / "results.json") in files._files  # used most


def test_without_a_run_the_error_is_one_line(tmp_path: Path) -> None:
    for uri in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match=r"there is no such run; `arspm submit --run .*`") as caught:
            server.start(str(uri), port=0)
        assert "\n" not in str(caught.value)


# --- how often it reads storage


def test_an_unchanged_page_is_not_sent_again(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    folder = write_sweep(str(tmp_path))
    get = serve(folder)
    for path in ("/sweeps/loss_weights/", "/sweeps/loss_weights/results.json"):
        first = get(path)
        for have in (first.headers["etag"], f'"older", W/{first.headers["etag"]}', "*"):
            again = get(path, If_None_Match=have)
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert get(path, If_None_Match='"older"').status == 200
    write_sweep(str(tmp_path), page=PAGE + b"new", state="finished")
    for path in ("/sweeps/loss_weights/", "/sweeps/loss_weights/results.json"):
        assert get(path, If_None_Match=first.headers["etag"]).status == 200
    assert get("/sweeps/loss_weights/").body == PAGE + b"new"


def test_storage_is_read_once_in_two_seconds_for_all_clients(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks, read = 0.0, [], []
    monkeypatch.setattr(site_files, "monotonic", lambda: now)
    look, read_bytes = site_files._read_if_changed, storage.read_bytes
    monkeypatch.setattr(site_files, "_read_if_changed", lambda uri, before: looks.append(uri) or look(uri, before))
    monkeypatch.setattr(storage, "read_bytes", lambda uri: read.append(uri) or read_bytes(uri))
    get = serve(write_sweep(str(tmp_path)))
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(get, ["/sweeps/loss_weights/results.json"] * 80))
        assert {reply.status for reply in replies} == {200}
        assert len(looks) == len(read) == 1
        now += 2.0
        list(pool.map(get, ["/sweeps/loss_weights/results.json"] * 20))
        assert (len(looks), len(read)) == (2, 1), "an unchanged file is not read again"
        write_sweep(str(tmp_path), state="finished")
        assert json.loads(get("/sweeps/loss_weights/results.json").body)["state"] == "running"
        now += 2.0
        assert json.loads(get("/sweeps/loss_weights/results.json").body)["state"] == "finished"


def test_a_storage_error_keeps_the_last_page_or_gives_503(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    folder = Path(write_sweep(str(tmp_path)))
    get = serve(str(folder))
    assert get("/sweeps/loss_weights/").body == PAGE
    for name in ("index.html", "results.json"):  # a folder of that name cannot be read
        (folder / name).unlink()
        (folder / name).mkdir()
    assert get("/sweeps/loss_weights/").body == PAGE, "the last page that was read is kept"
    fault = get("/sweeps/loss_weights/results.json")
    assert fault.status == 503
    assert re.fullmatch(rb"Cannot read the run's folder: .*\n", fault.body)


# --- host and port


def test_the_server_listens_on_loopback_only(tmp_path: Path) -> None:
    folder = write_sweep(str(tmp_path))
    for host in ("0.0.0.0", "::", "192.168.0.1", ""):
        with pytest.raises(ValueError, match="only loopback is allowed"):
            server.start(folder, port=0, host=host)
    with server.start(folder, port=0) as started:
        assert started.socket.getsockname()[0] == "127.0.0.1"
    for port in (-1, 65536):
        with pytest.raises(ValueError, match=f"port {port}: must be from 0 to 65535"):
            server.start(folder, port=port)


def test_the_next_free_port_is_used_and_ctrl_c_stops_the_server(tmp_path: Path) -> None:
    """It prints the token in the URL only, whatever the requests are."""
    folder = write_sweep(str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code = "import sys; from arspm.report.server import serve; serve(sys.argv[1], int(sys.argv[2]))"
        command = subprocess.Popen(
            [sys.executable, "-c", code, folder, str(port)],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert command.stdout is not None
            assert command.stdout.readline() == f"port {port} is taken\n"
            said = re.fullmatch(
                r"serving http://127\.0\.0\.1:(\d+)(/[\w-]+)/ \(Ctrl-C to stop\)\n", command.stdout.readline()
            )
            assert said is not None
            assert int(said[1]) > port
            get = Client(int(said[1]), said[2])
            assert get("/sweeps/loss_weights/").body == PAGE
            assert get("/sweeps/none/").status == 404
            assert get.stranger("/sweeps/loss_weights/").status == 403
            assert b"400" in get.raw(f"nonsense {get.root}/\r\n\r\n".encode())
            assert get.raw(f"BREW {get.root}/ HTTP/1.1\r\n\r\n".encode()).split(b" ")[1] == b"501"
            command.send_signal(signal.SIGINT)
            out, errors = command.communicate(timeout=20)
            assert (command.returncode, out, errors) == (0, "\n", "")
        finally:
            command.kill()
            command.communicate()


# --- on S3


def test_a_sweep_in_a_bucket_is_served(s3: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    monkeypatch.setattr(site, "NAMES_SECONDS", 0.0)
    run = storage.join(s3, "dashboard", "run")
    with pytest.raises(FileNotFoundError, match=r"s3://.*/dashboard/run: there is no such run"):
        server.start(run, port=0)
    folder = write_sweep(run, page=None)
    alone, all_of_run = serve(folder), serve(run)
    for get in (alone, all_of_run):
        assert b"has not written results yet" in get("/sweeps/loss_weights/").body
    write_sweep(run)
    read_bytes, read = storage.read_bytes, []
    monkeypatch.setattr(storage, "read_bytes", lambda uri: read.append(uri) or read_bytes(uri))
    for get in (alone, all_of_run):
        first = get("/sweeps/loss_weights/results.json")
        assert (first.status, json.loads(first.body)["state"]) == (200, "running")
        assert get("/sweeps/loss_weights/results.json", If_None_Match=first.headers["etag"]).status == 304
    assert len(read) == 2, "an unchanged object is not fetched again"
    write_sweep(run, state="finished")
    for get in (alone, all_of_run):
        assert json.loads(get("/sweeps/loss_weights/results.json").body)["state"] == "finished"
        assert get("/sweeps/loss_weights/sweep.json").status == 404
    write_sweep(run, "second")
    assert all_of_run("/").body.count(b"<td><a ") == 2
