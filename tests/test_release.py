"""The wheel and the sdist: they contain the whole program, and it runs where nothing else is installed."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("arspm", "cluster", "jobs", "tune_spaces")
# A cluster's own files, which are read in a clone: images, charts, scripts.
NOT_SHIPPED = ("cluster/kuberay/", "cluster/slurm/", "cluster/grafana/", "cluster/Dockerfile")


def tracked(*folders: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "--", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def copy_tracked(folder: Path) -> Path:
    """Copy what git tracks, since files that lie about must not get into a build; return the folder."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a "wheel" or "sdist" of the sources in this environment, and return its path."""
    code = f"import sys, setuptools.build_meta as backend; print(backend.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(into)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", copy_tracked(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, as an installer without the wheel does."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    [source] = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_has_the_program_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    not_shipped = {name for name in tracked(*PACKAGES) if name.startswith(NOT_SHIPPED)}
    assert inside == set(tracked(*PACKAGES)) - not_shipped


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_the_wheel_runs_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Downloads the dependencies: a few GB."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [tmp_path / "venv/bin/pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, stdin=subprocess.DEVNULL)
    (tmp_path / "work").mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "VIRTUAL_ENV"))}
    env |= {"HOME": str(tmp_path / "work"), "ARSPM_HOME": str(tmp_path / "work/home"), "RAY_USAGE_STATS_ENABLED": "0"}

    def arspm(*words: str) -> str:
        command = [str(tmp_path / "venv/bin/arspm"), *words]
        done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout

    arspm("synth", "clips", "--num-speakers", "14", "--clips-per-speaker", "2")
    arspm("up")
    try:
        clips = ("--csv", "clips/avspeech.csv", "--clips", "clips/clips")
        arspm("submit", *clips, "--run", "run", "--preset", "smoke")
        arspm("submit", *clips, "--run", "run", "--preset", "smoke", "--dry-run")
    finally:
        arspm("down")
    one, *_ = sorted((tmp_path / "work/clips/clips").glob("*.mp4"))
    arspm("generate", "--run", "run", "--out", "portraits", str(one))
    assert list((tmp_path / "work/portraits").iterdir())
    assert "encoder" in arspm("status", "run")
