"""A URI without a run: the error names the run that was meant."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from arspm import storage
from arspm.runs import find
from tests.s3_servers import connected_to


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder with three runs, a sweep in one of them, and what is no run."""
    root, env = str(tmp_path), {}
    if request.param == "s3":
        bucket = request.getfixturevalue("seaweed_bucket")
        root, env = f"{bucket.uri}/{request.node.originalname}", bucket.env
    with connected_to(env):
        for path in (
            *("runs/one/configs/a.json", "runs/one/sweeps/s/sweep.json", "runs/one/sweeps/s/_lease/1.json"),
            *("runs/two/preprocess/_SUCCESS.json", "runs/three/_drivers/chain.json", "runs/oone/notes.txt"),
        ):
            storage.write_bytes(storage.join(root, path), b"{}")
        yield root


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("runs/oen", "there is no such run: did you mean ROOT/runs/one?"),
        ("runs/thre", "there is no such run: did you mean ROOT/runs/three?"),
        ("runs/oone", "there is no such run: did you mean ROOT/runs/one?"),  # it exists, but is no run
        ("runs/two/preprocess", "not a run, but inside one: did you mean ROOT/runs/two?"),
        ("runs", "not a run, but a folder of runs: one, three, two"),
        ("runs/one/sweeps/s", "there is no such run; `arspm submit --run ROOT/runs/one/sweeps/s ...` starts one"),
        ("else/where", "there is no such run; `arspm submit --run ROOT/else/where ...` starts one"),
    ],
)
def test_the_error_names_the_nearest_run(folder: str, path: str, says: str) -> None:
    uri = storage.join(folder, path)
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(f'{uri}: ' + says.replace('ROOT', folder))}$"):
        find.require_run(uri)


def test_a_run_is_known_by_any_of_its_folders(folder: str) -> None:
    for name in ("one", "two", "three"):
        find.require_run(storage.join(folder, "runs", name))


@pytest.mark.parametrize("uri", ["/", "s3://no-such-bucket-1"])
def test_a_root_is_no_run(uri: str, request: pytest.FixtureRequest) -> None:
    with connected_to(request.getfixturevalue("seaweed_bucket").env), pytest.raises(FileNotFoundError):
        find.require_run(uri)
