"""Paths and URIs from users, for runs, inputs and files of a configuration: used unchanged, or refused in one line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from random import Random

import pyarrow.fs
import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config import ConfigError, presets
from arspm.runs import inventory
from arspm.storage import uris
from jobs import cli
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, ODD_TEXTS

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

SECRET = "pass-word"
FIELDS = [name for name in configuration.field_names() if name.startswith("data.") and name.count(".") == 1][1:6]
FIELDS += ["face.detector", "vggface.weights", "gender.weights", "oracle.speakers", "evaluate.judge"]
FIELDS += ["evaluate.landmarks", "evaluate.recognizer"]
SCHEMES = ("", "", "s3://", "s3://", "s3a://", "S3://", "s3:/", "s3:", "file://", "file:///", "FILE:///", "file:")
SCHEMES += (
    "ftp://",
    "gs://",
    "http://",
    "https://",
    "local://",
    "zip://",
    "simplecache::s3://",
    "data:",
    "C:\\",
    "C:/",
)
SCHEMES += ("://", "a::b", "github://", " s3://", "//", "~", "~nobody/", "../", "./", "$HOME/")
HOSTS = ("", "", "", f"user:{SECRET}@", f"user:{SECRET}/x@", f"us er:{SECRET}@", f":{SECRET}@", f"AKIA:{SECRET}\n@")
NAMES = ("run", "a b", "..", ".", "", "%2e%2e", "%00", "é", "e\u0301", "\u202e", "\u200b", "a\nb", "a\0b", "\x1b[31m")
NAMES += (
    "x" * 300,
    "x" * 2000,
    "[a]*",
    "a#b",
    "watch?v=ID.mp4",
    "?",
    "a::b",
    "a:b",
    "a@b",
    "-rf",
    "\udcff",
    "\\",
    "file",
)
TAILS = ("", "", "/", "//", f"?versionId={SECRET}", f"?X-Amz-Signature={SECRET}", f"?secret_key={SECRET}&region=x")
REFUSED = (
    *("", "  ", "a\0b", "a\nb", "\x1b[31m", "\u202eabc", "\udcff", "x/" * 600, "gs://b/x", "ftp://h/x", "http://h/x"),
    *(
        "S3://b/x",
        "s3:/b/x",
        "s3:b/x",
        "s3://",
        "s3:///x",
        "s3://b!/x",
        "s3:// b/x",
        "s3://b/../x",
        "s3://b//x",
        "s3://b/.",
    ),
    *("file://host/x", "file:/x", "FILE:///x", " s3://b/x", "simplecache::s3://b/x", "zip://a::b", "a:/b", "C:/x"),
    *(
        f"{scheme}user:{SECRET}@b/x"
        for scheme in ("s3://", "s3a://", "S3://", "s3:/", "s3:", "ftp://", "file://", "x::s3://")
    ),
    *(f"s3://user:{SECRET}/x@b/x", f"s3://us er:{SECRET}@b/x", f"s3://b/x{TAILS[-3]}", f"s3://b/x{TAILS[-2]}"),
)


def composed(rng: Random, _: bytes, __: bytes) -> bytes:
    """Return a URI composed of parts, each of which may be invalid."""
    parts = [rng.choice(NAMES) for _ in range(rng.choice((1, 1, 2, 3)))]
    text = rng.choice(SCHEMES) + rng.choice(HOSTS) + "/".join(parts) + rng.choice(TAILS)
    return text.encode("utf-8", "surrogateescape")


def uri(path: Path) -> None:
    """An accepted URI means the same to every reader and writer. A refusal does not show a password."""
    text = os.fsdecode(path.read_bytes())
    on_command_line = refusal(text)
    for field in FIELDS:
        in_field = refusal(text, field)
        assert bool(in_field) == bool(on_command_line and text)  # an empty field is not a URI
        assert in_field.startswith(f"{field}: " if in_field else "")
        assert in_field.isprintable()
        assert not hidden(text) or SECRET not in on_command_line + in_field, on_command_line + in_field
    accepted = storage.absolute(text)
    fs, where = storage.filesystem(accepted)
    if storage.is_remote(accepted):
        bucket, _, key = text.partition("://")[2].partition("/")
        assert SECRET not in bucket
        assert fs.split_path(where) == (bucket, key.rstrip("/"), None)
        try:
            run = storage.run_uri(text)
        except ValueError:
            return
        # As Ray Train reads it. A region in the URI avoids a request for the bucket's region.
        assert pyarrow.fs.FileSystem.from_uri(f"{run}?region=us-east-1")[1] == where
        return
    assert (
        accepted == where == storage.filesystem(text)[1] == storage.arrow_filesystem(text)[1] == storage.run_uri(text)
    )
    assert os.path.realpath(accepted) == os.path.realpath(
        os.path.normpath(os.path.expanduser(text.removeprefix("file://")))
    )
    if not accepted.startswith(f"{path.parent}/") or accepted == str(path):
        return
    file = storage.join(text, "some", "file")
    storage.write_bytes(file, b"1")
    try:
        assert Path(accepted, "some", "file").read_bytes() == b"1" == storage.read_bytes(file)
        assert storage.files_below(text) == {"some/file": 1}
        assert not storage.put_if_absent(file, b"2")
        with storage.local_copy(file) as copy:
            assert copy.read_bytes() == b"1"
    finally:
        storage.remove(storage.join(text, "some"))


def refusal(text: str, field: str = "") -> str:
    """Return the error for a URI on the command line or in a field of the configuration, or "" if it is accepted."""
    try:
        if not field:
            storage.absolute(text)
        else:
            found = configuration.override(presets.preset("smoke"), {field: text})
            assert configuration.load(configuration.dump(found)) == found
    except ValueError as error:
        return str(error)
    return ""


def hidden(text: str) -> bool:
    """Return whether the password is where one can be recognized: before an @, or after a question mark."""
    return SECRET not in text.rpartition("@")[2].partition("?")[0]


def test_uris() -> None:
    seeds = tuple(text.encode("utf-8", "surrogateescape") for text in (*REFUSED, *ODD_TEXTS, "s3://bucket/run") if text)
    inputs = Mutated(seeds, (*BYTES, *[composed] * 20), num_inputs(400))
    tally = try_inputs(uri, inputs, mentions=": ")
    assert min(tally["refused"], tally["accepted"]) > tally.total() // 10


def test_invalid_uris_are_refused() -> None:
    inputs = [text.encode("utf-8", "surrogateescape") for text in REFUSED]
    assert try_inputs(uri, inputs, mentions=": ")["refused"] == len(inputs)


@pytest.mark.parametrize("text", [text for text in REFUSED if "\0" not in text])
def test_every_command_refuses_an_invalid_uri_in_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [["status", "--", text], ["report", "--", text], ["dashboard", "--", text], ["synth", "--", text]]
    commands += [["logs", "--", text, "encoder"], ["cancel", "--", text], ["sweep", "cbam_ordering", "--run", text]]
    commands += [["submit", "--run", text], ["submit", "--run", "r", "--config", text], ["ablation", "--run", text]]
    commands += [["generate", "--run", text, "--out", "o", "a.wav"], ["generate", "--run", "r", "--out", text, "a.wav"]]
    commands += [["generate", "--run", "r", "--out", "o", "--", text], ["pictures", "--run", text, "--out", "o"]]
    commands += [["pictures", "--run", "r", "--out", text]]
    if text:  # an empty text is a field that is not set
        commands += [["submit", "--run", "r", "--clips", "c", "--csv", text]]
        commands += [["submit", "--run", "r", "--csv", "c", "--clips", "c", "--set", f"vggface.weights={text}"]]
    for command in commands:
        assert cli.readable(lambda command=command: cli.app(command, standalone_mode=False)) == 1, command
        said = capsys.readouterr()
        assert re.fullmatch(r"error: [^\n]+\n", said.err), command
        assert len(said.err) < 1000
        assert said.err.strip().isprintable(), command
        assert SECRET not in said.err + said.out, command
    assert not list(tmp_path.iterdir())


def test_a_file_instead_of_a_folder_and_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    file, folder = f"{tmp_path}/file", f"{tmp_path}/folder"
    for write in (storage.write_bytes, storage.put_if_absent):
        for below_file in (f"{file}/x", f"{file}/deep/x"):
            with pytest.raises(NotADirectoryError, match=f"{file}.*: a file is where a folder is needed"):
                write(below_file, b"")
    for read in (storage.read_bytes, lambda uri: storage.local_copy(uri).__enter__()):
        with pytest.raises(OSError, match=folder):
            read(folder)
    for changes, message in (
        ({"data.csv": file, "data.clips": file}, f"data.clips: {file} contains no media files"),
        ({"data.csv": folder, "data.clips": tmp_path}, folder),
        ({"data.csv": "/dev/zero", "data.clips": tmp_path}, "/dev/zero: a device, not a file"),
        ({"data.csv": f"{file}/x", "data.clips": tmp_path}, f"{file}/x does not exist"),
    ):
        config = configuration.override(presets.preset("smoke"), {name: str(uri) for name, uri in changes.items()})
        with pytest.raises((OSError, ValueError), match=re.escape(message)):
            inventory.find_inputs(config)


def test_errors_do_not_show_passwords_in_a_configuration(tmp_path: Path) -> None:
    """Even where no URI is expected: in a section, in a list, in a name."""
    address = f"s3://user:{SECRET}@bucket/x"
    good = json.loads(configuration.dump(presets.preset("smoke")))
    for changes in ({"data": good["data"] | {"csv": address}}, {"loss": [address]}, {"seed": address}, {address: 1}):
        with pytest.raises(ConfigError) as refused:
            configuration.load(json.dumps(good | changes))
        assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "é",
        "[a]*",
        "a::b",
        "a#b",
        "%2e%2e",
        "watch?v=ID.mp4",
        "a@b:c",
        "~",
        "x" * 200,
        "data:,x",
        "\u200b",
    ],
)
def test_every_client_reads_an_odd_name_on_s3_the_same_way(s3: str, name: str, tmp_path: Path) -> None:
    folder = f"{s3}/odd/{name}"
    file = f"{folder}/{name}"
    assert storage.put_if_absent(file, b"123")
    assert not storage.put_if_absent(file, b"4")
    assert storage.read_bytes(file) == b"123"
    assert storage.files_below(folder) == {name: 3}
    with storage.local_copy(file) as copy:
        assert copy.read_bytes() == b"123"
    fs, path = storage.arrow_filesystem(file)
    assert fs.open_input_file(path).read() == b"123"
    storage.remove(folder)
    assert not storage.exists(file)


def test_a_bucket_alone_is_a_folder_and_not_a_file(s3: str) -> None:
    storage.write_bytes(f"{s3}/right-in-the-bucket", b"1")
    for bucket in (s3, f"{s3}/"):
        assert storage.run_uri(bucket) == s3
        assert "right-in-the-bucket" in storage.files_below(bucket)
        for read in (storage.read_bytes, lambda uri: storage.local_copy(uri).__enter__()):
            with pytest.raises(ValueError, match=rf"^{s3}/?: not a file on S3 \([^\n]*\)$"):
                read(bucket)
    storage.remove(f"{s3}/right-in-the-bucket")


@pytest.mark.parametrize("name", ["my run", "a%20b", "a#b", "é", "a?b"])
def test_a_run_name_that_ray_train_misreads_is_refused(name: str) -> None:
    assert storage.run_uri(f"/tmp/{name}") == f"/tmp/{name}"
    if "?" not in name:
        assert storage.absolute(f"s3://bucket/{name}") == f"s3://bucket/{name}"
    with pytest.raises(ValueError, match=r"the URI of a run on S3 may contain only letters"):
        storage.run_uri(f"s3://bucket/{name}")
    assert uris.run_uri_problem("s3://bucket/Run_1.2-x/~a@b:c") == ""
