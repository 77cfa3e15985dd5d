"""The `arspm` command in a separate process, with a real Ray head where it needs one."""

import csv
import getpass
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import soundfile

from arspm import storage
from arspm.config import dump
from arspm.media.clips import load_speech
from arspm.runs import live, stages
from arspm.runs.provenance import code_commit
from cluster import client
from jobs.submission import job_prefix
from tests.jobs.conftest import Chain, arspm, arspm_in_process, submit

ALL = list(stages.STAGES)


def lines_that(output: str, words: str) -> list[str]:
    """The stages of the lines `stage: ...words...`, in order."""
    return [line.partition(":")[0] for line in output.splitlines() if words in line]


def test_help_lists_every_command_with_examples_and_states_the_limits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    text = arspm("--help").stdout
    for command in (
        *("up", "down", "synth", "download", "submit", "status", "logs", "cancel"),
        *("report", "drops", "ablation", "sweep", "dashboard", "pictures", "generate"),
    ):
        assert f" {command} " in text
        assert arspm_in_process(command, "--help") == 0
        examples = rf"^ Examples?:\s*\n\s*\n arspm {command}\b"
        assert re.search(examples, capsys.readouterr().out, re.MULTILINE), "on a line of its own"
    assert "identifies no one" in text


def test_all_invalid_settings_are_reported_before_anything_starts(tmp_path: Path):
    done = submit(tmp_path, tmp_path / "run", "--set", "loss.lamda1=1", "--set", "prior.kind=mean")
    assert done.returncode == 1
    assert "error: loss.lamda1: there is no such field; did you mean loss.lambda1" in done.stderr
    assert "error: prior.kind: Input should be 'none', 'neutral'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit", "--run", "r"], "no clips given; pass --csv CSV --clips FOLDER\n"),
        (["submit", "--run", "r", "--format", "folder"], "no clips given; pass --format folder --clips FOLDER\n"),
        (
            ["submit", "--run", "r", "--preset", "huge"],
            "there is no such preset; there are paper, many-gpus, demo, smoke",
        ),
        (["submit", "--run", "r", "--set", "seed"], "--set seed: write it as name=value"),
        (["generate", "--run", "nowhere", "--out", "o", "a.wav"], "nowhere: there is no such run; `arspm submit"),
        (["report", "nowhere"], "nowhere: there is no such run; `arspm submit"),
    ],
)
def test_errors_are_one_line(arguments: list[str], says: str):
    done = arspm(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_head_the_error_says_what_to_do(clips: Path, tmp_path: Path):
    where = ["--csv", clips / "avspeech.csv", "--clips", clips / "clips", "--run", tmp_path / "run"]
    done = arspm("submit", *where, ARSPM_HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    assert "arspm up" in done.stderr


@pytest.mark.ray
def test_missing_inputs_are_reported_before_a_job_is_submitted(clips: Path, tmp_path: Path, head: Any):
    done = arspm("submit", "--csv", tmp_path / "no.csv", "--clips", clips / "clips", "--run", tmp_path / "run")
    assert done.returncode == 1
    assert f"{tmp_path}/no.csv" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def run(chain: Chain) -> tuple[Path, str]:
    """A finished run, and the output of its submission."""
    return chain.run, chain.output


@pytest.mark.ray
def test_the_chain_ends_in_a_report(run: tuple[Path, str]):
    folder, output = run
    assert sorted(lines_that(output, ": done in")) == sorted(ALL)
    assert f"report: {folder}/report/index.html" in output
    metrics = json.loads((folder / "report" / "metrics.json").read_text())
    rows = {row["model"]: row for row in metrics["table4"]}
    assert set(rows) == {
        *("neutral+fc", "prior-only", "gender-prior-only", "shuffled-speech", "face-to-face"),
        "oracle",
    }
    manifest = json.loads((folder / "corpus" / "manifest.json").read_text())
    assert rows["neutral+fc"]["n"] == manifest["splits"]["test"]["rows"]
    assert set(metrics["stages"]) >= set(ALL) - {"report"}
    with_workers = {stage for stage in stages.STAGES if stages.STAGES[stage].resources}
    assert {stage for stage, used in metrics["usage"].items() if used["workers"]} == with_workers
    assert (metrics["spent"]["gpu_hours"], metrics["spent"]["usd"]) == (0.0, None)
    assert {*metrics["spent"]["unpriced"]} == with_workers
    assert "like those of a local head" in metrics["spent"]["unpriced"]["encoder"]


@pytest.mark.ray
def test_the_chain_was_shown_live(run: tuple[Path, str]):
    """The report has taken the page's place, and what the page showed of the trainings is what they ended with."""
    state = json.loads((run[0] / live.FILE).read_text())
    assert [(row["name"], row["state"]) for row in state["stages"]] == [(stage, "done") for stage in ALL]
    assert (state["state"], state["corpus"]["num_dropped"]) == ("finished", 0)
    assert "AR-SPM report" in (run[0] / "report" / "index.html").read_text()
    for training in state["trainings"]:
        found, history = (
            live.read_training(str(run[0]), training["stage"]),
            stages.history(str(run[0]), training["stage"]),
        )
        assert found is not None
        assert history is not None
        assert [epoch.model_dump(mode="json") for epoch in found.epochs] == history["epochs"]
        assert found.pictures == [epoch.epoch for epoch in found.epochs if training["stage"] in live.DRAWN_STAGES]
        pictures = [run[0] / path for _, path in (training["pictures"] or {"epochs": []})["epochs"]]
        assert all(path.exists() for path in pictures)
    assert [training["stage"] for training in state["trainings"]] == ["vggface", "gender", "decoder", "encoder"]


@pytest.mark.ray
def test_every_file_of_every_stage_matches_its_manifest(run: tuple[Path, str]):
    for stage in ALL:
        done = stages.success(str(run[0]), stage)
        assert done is not None
        for path, described in done.files.items():
            assert storage.describe(str(run[0] / path)) == described, path


@pytest.mark.ray
def test_the_same_command_reuses_every_stage(clips: Path, run: tuple[Path, str]):
    begun = time.monotonic()
    done = submit(clips, run[0])
    assert done.returncode == 0, done.stderr
    assert lines_that(done.stdout, "reused") == lines_that(done.stdout, ": ")[: len(ALL)]
    assert time.monotonic() - begun < 30


@pytest.mark.ray
def test_status_and_logs_show_the_run(run: tuple[Path, str]):
    said = arspm("status", run[0]).stdout
    assert "clips, 0 dropped" not in said
    assert [line.split()[0] for line in said.splitlines()][: len(ALL)] == ALL
    assert "driver" not in said
    assert said.count("done in") == len(ALL)
    assert "epoch" in arspm("logs", run[0], "decoder").stdout
    done = arspm("logs", run[0], "nothing")
    assert done.returncode == 1
    assert "no job of stage 'nothing'; it knows preprocess, " in done.stderr


@pytest.mark.ray
def test_the_report_is_found_or_written_from_the_run_only(run: tuple[Path, str], tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy, ignore=shutil.ignore_patterns("speech", "train-*"))
    page = copy / "report" / "index.html"
    was = page.read_bytes()
    assert arspm("report", copy).stdout.splitlines() == ["report is done already", str(page)]
    shutil.rmtree(copy / "report")
    done = arspm("report", copy)
    assert done.stdout.splitlines() == [str(page)], done.stderr
    assert page.stat().st_size == pytest.approx(len(was), rel=0.01)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_an_ablation_compares_variants_over_the_run_and_reuses_finished_models(run: tuple[Path, str]):
    """With a variant that this corpus cannot serve: its validation split has no woman."""
    command = ["ablation", "--run", run[0], "--variants", "non-prior,neutral+fc,male,female", "--seeds", 1]
    before = {stage: (run[0] / stage / stages.SUCCESS).read_bytes() for stage in ALL}
    done = arspm(*command)
    assert done.returncode == 1, done.stdout + done.stderr
    trained = [f"{stage}-{name}-0" for stage in ("encoder", "evaluate") for name in ("non-prior", "male")]
    assert sorted(lines_that(done.stdout, ": done in")) == sorted(trained)  # neutral+fc is the run's own
    assert {stage: (run[0] / stage / stages.SUCCESS).read_bytes() for stage in ALL} == before
    found = json.loads((run[0] / "ablation" / "metrics.json").read_text())
    rows = {row["variant"]: row for row in found["variants"]}
    assert set(rows) == {"non-prior", "neutral+fc", "male"}
    [gap] = found["missing"]
    assert (gap["variant"], gap["seed"]) == ("female", 0)
    assert "/corpus/val has no clip that labels.csv labels female" in gap["reason"]
    measured = json.loads((run[0] / "evaluate" / "metrics.json").read_text())
    assert rows["neutral+fc"]["runs"][0]["table4"] == measured["table4"][0]
    assert rows["neutral+fc"]["runs"][0]["run"] == "."
    variant = run[0] / rows["male"]["runs"][0]["run"]
    by_hand = json.loads((variant / "evaluate" / "metrics.json").read_text())
    assert rows["male"]["figures"]["cos_degrees"]["mean"] == by_hand["table4"][0]["cos_degrees"]
    assert rows["male"]["n"] < rows["non-prior"]["n"] == measured["n"]  # men alone
    men = json.loads((variant / "encoder" / "history.json").read_text())
    everyone = json.loads((run[0] / "encoder" / "history.json").read_text())
    assert men["epochs"][0]["step"] < everyone["epochs"][0]["step"]
    assert (run[0] / "ablation" / "index.html").stat().st_size > 100_000
    again = arspm(*command[:3], "--variants", "non-prior,neutral+fc,male", *command[5:])
    assert again.returncode == 0, again.stderr
    assert lines_that(again.stdout, ": done in") == []
    assert len(lines_that(again.stdout, "reused")) == 6
    done = arspm("report", variant)  # a variant is a run
    assert done.returncode == 0, done.stderr
    assert (variant / "report" / "index.html").exists()


@pytest.mark.ray
def test_pictures_are_exported_with_a_table_that_a_judge_fills_in(run: tuple[Path, str], tmp_path: Path):
    done = arspm("pictures", "--run", run[0], "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = json.loads((run[0] / "evaluate" / "metrics.json").read_text())
    assert Counter(row["pictures"] for row in rows) == dict.fromkeys(
        ("real", "face-to-face", "neutral+fc"), measured["n"]
    )
    assert all(cv2.imread(str(tmp_path / "out" / row["file"])) is not None for row in rows)
    shown = measured["portraits"][0]
    file = tmp_path / "out" / "neutral+fc" / f"{shown['clip_id']}.jpg"
    assert file.read_bytes() == (run[0] / shown["portrait"]).read_bytes()
    table = tmp_path / "judged.csv"
    with table.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(row | {"gender": "f", "age": "50"} for row in rows)
    config = tmp_path / "config.json"
    config.write_text(dump(stages.finished_config(str(run[0]), "evaluate")))
    done = arspm("submit", "--config", config, "--run", run[0], "--set", f"evaluate.judge={table}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(lines_that(done.stdout, ": done in")) == ["evaluate", "report"]
    judged = json.loads((run[0] / "evaluate" / "metrics.json").read_text())
    assert judged["judge"] == "predictions of judged.csv"
    assert {row["female"] for row in judged["table5"]} <= {1.0, None}
    assert {row["male"] for row in judged["table5"]} <= {0.0, None}
    assert {row["mid_age"] for row in judged["table6"]} <= {1.0, None}


@pytest.mark.ray
def test_portraits_are_drawn_from_recordings_of_any_kind(clips: Path, run: tuple[Path, str], tmp_path: Path):
    clip = sorted((clips / "clips").iterdir())[0]
    recordings = [tmp_path / f"{kind}.{kind}" for kind in ("wav", "flac", "mp3")]
    for recording in recordings:
        soundfile.write(recording, load_speech(clip), 16_000)
    done = arspm("generate", "--run", run[0], *recordings, clip, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [Path(line).stem for line in done.stdout.splitlines()] == ["wav", "flac", "mp3", clip.stem]
    for line in done.stdout.splitlines():
        picture = cv2.imread(line)
        assert picture.shape == (64, 64, 3)
        assert picture.std() > 1


@pytest.mark.ray
def test_with_few_validation_clips_the_training_loss_chooses_the_epoch(clips: Path, run: tuple[Path, str]):
    """And the console says so."""
    folder, output = run
    for stage in ("vggface", "encoder"):
        done = stages.success(str(folder), stage)
        assert done is not None
        assert done.figures["chosen_by"] == "train_loss"
        history = json.loads((folder / stage / "history.json").read_text())
        losses = [epoch["train_loss"] for epoch in history["epochs"]]
        assert history["best_epoch"] == losses.index(min(losses)) + 1
        assert (
            f"kept epoch {history['best_epoch']} of 2 by the training loss: "
            in output + arspm("logs", folder, stage).stdout
        )
    count = stages.success(str(folder), "vggface").figures["num_held_out"]
    assert f" of {count} held-out faces, too few to choose by" in arspm("logs", folder, "vggface").stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_the_best_trial_of_a_sweep_is_trained_without_repeating_upstream_stages(run: tuple[Path, str]):
    folder, best = run[0], run[0].parent / "best.json"
    space = run[0].parent / "my_space.py"
    space.write_text(
        "from tune_spaces.space import Choice, Space\n"
        'SPACE: Space = {"loss.lambda1": Choice([2.0, 3.0]), "training.encoder.epochs": Choice([1])}\n'
    )
    swept = arspm("sweep", space, "--run", folder, "--export-best", best)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    results = json.loads((folder / "sweeps" / "my_space" / "results.json").read_text())
    assert [trial["state"] for trial in results["trials"]] == ["finished", "finished"]
    chosen = results["trials"][results["best"]]["sample"]["loss.lambda1"]
    done = arspm("submit", "--config", best, "--run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    anew = ["encoder", "evaluate", "report"]
    assert lines_that(done.stdout, ": done in") == anew
    assert set(lines_that(done.stdout, "reused")) == {*ALL} - {*anew}
    config = json.loads((folder / "encoder" / "_SUCCESS.json").read_text())["config"]
    assert (config["loss"]["lambda1"], config["training"]["encoder"]["epochs"]) == (float(chosen), 1)
    assert f"report: {folder}/report/index.html" in done.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_stops_at_its_target_or_after_failures_and_says_so(run: tuple[Path, str]):
    folder, words = run[0], ("sweep", "prior_type", "--run", run[0], "--set", "training.encoder.epochs=1")
    alone = ("--set", "resources.trial.cpus=2")  # one trial at a time
    done = arspm(*words, *alone, "--name", "target", "--target", 180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep: reached the target 180.0 with trial 0\n" in done.stdout
    again = arspm(*words, *alone, "--name", "target", "--target", 180)
    assert (again.returncode, lines_that(again.stdout, "reused")) == (0, ["sweep-target"])
    assert "sweep: reached the target 180.0 with trial 0\n" in again.stdout
    said = "target: stopped: reached the target 180.0 with trial 0, "
    assert said in arspm("status", folder).stdout
    broken = (*words, *alone, "--set", "training.encoder.learning_rate=1e30", "--name", "broken")
    failed = arspm(*broken, "--max-consecutive-failures", 2)
    assert failed.returncode == 1
    assert "sweep-broken: FAILED: stopped: 2 trials failed one after another; the last: trial 1: " in failed.stdout


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_detached_chain_is_driven_by_the_cluster_and_can_be_cancelled(
    clips: Path, tmp_path: Path, head: Any, wait_until: Callable[..., None]
):
    run = tmp_path / "run"
    done = submit(clips, run, "--detach", "--set", "training.vggface.epochs=5000")
    assert done.returncode == 0, done.stderr
    progress = r"^vggface +running for .*: \d+ of \d+ steps, .*, about .* left$"
    wait_until(lambda: re.search(progress, arspm("status", run).stdout, re.MULTILINE), seconds=600)
    assert (run / "preprocess" / "_SUCCESS.json").exists()
    command = [Path(sys.executable).with_name("arspm"), "logs", run, "vggface", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        wait_until(lambda: "@progress" in following.stdout.readline(), seconds=60)
        said = arspm("cancel", run, "--stage", "vggface")
        assert re.fullmatch(r"vggface: stopped \(.*-vggface-.*\)\n", said.stdout), said.stderr
        _, ending = following.communicate(timeout=60)
    assert ending == "vggface: stopped\n"
    ended = "driver of the detached chain: stopped .* ago: run the same command again to resume"
    wait_until(lambda: re.search(ended, arspm("status", run).stdout), seconds=120)
    said = arspm("status", run).stdout
    assert re.search("^vggface +stopped", said, re.MULTILINE)
    assert re.search("^gender +done", said, re.MULTILINE), "it does not need vggface"
    assert "running" not in said
    assert arspm("cancel", run).stdout == "no job is running\n"
    assert not (run / "vggface" / "_SUCCESS.json").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_in_use_with_other_settings_is_refused(
    clips: Path, run: tuple[Path, str], tmp_path: Path, jobs_client: Any
):
    """They would overwrite each other. The second gets an error, and nothing of the first is touched."""
    copy = shutil.copytree(run[0], tmp_path / "run")
    first = f"{job_prefix(str(copy))}-decoder-01234567-1"
    client.submit(
        jobs_client, submission_id=first, entrypoint="sleep 300", metadata={"run": str(copy), "stage": "decoder"}
    )
    try:
        before = {path: path.read_bytes() for path in copy.rglob("_SUCCESS.json")}
        done = submit(clips, copy, "--set", "loss.lambda1=2")
        assert done.returncode == 1
        why = f"encoder: FAILED: job {first} runs stage decoder of this run with other settings: wait for it, stop it"
        assert why in done.stdout
        assert {path: path.read_bytes() for path in copy.rglob("_SUCCESS.json")} == before
    finally:
        client.cancel(jobs_client, {"run": str(copy)})


@pytest.mark.ray
def test_a_damaged_file_of_a_finished_run_is_refused_before_anything_builds_on_it(
    clips: Path, run: tuple[Path, str], tmp_path: Path
):
    """64 bytes amid a shard of features; then another loss weight. The report reads no shard."""
    copy = shutil.copytree(run[0], tmp_path / "run")
    shard = copy / "corpus/train/features/shard-00000.parquet"
    data = bytearray(shard.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 255 for byte in data[middle : middle + 64])
    shard.write_bytes(data)
    before = {path: path.read_bytes() for path in copy.rglob("_SUCCESS.json")}
    done = submit(clips, copy, "--set", "loss.lambda1=7")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    manifest = copy / "features/_SUCCESS.json"
    assert line.startswith(f"error: {shard}: not the file that {manifest} lists: its SHA-256 is another.")
    assert "delete both files and submit again" in line
    assert {path: path.read_bytes() for path in copy.rglob("_SUCCESS.json")} == before
    shutil.rmtree(copy / "report")
    # Other tests train the shared run again with other settings.
    own = tmp_path / "own.json"
    own.write_text(dump(stages.finished_config(str(copy), "evaluate")))
    done = arspm("submit", "--config", own, "--run", copy)
    assert lines_that(done.stdout, ": done in") == ["report"], done.stderr
    shard.unlink()
    manifest.unlink()
    done = submit(clips, copy, "--until", "features")
    assert lines_that(done.stdout, ": done in") == ["features"], done.stderr
    assert storage.describe(str(shard)) == json.loads(manifest.read_text())["files"][str(shard.relative_to(copy))]


@pytest.mark.ray
def test_manifests_say_where_results_come_from(run: tuple[Path, str]):
    """The command that was typed, not the jobs'; the commit is shipped with the code."""
    # Other tests run the stages after the decoder again, by other commands.
    first = ALL[: ALL.index("decoder") + 1]
    found = [json.loads((run[0] / stage / "_SUCCESS.json").read_text())["provenance"] for stage in first]
    assert all(each == found[0] for each in found)
    assert found[0]["command"].startswith("arspm submit --csv ")
    assert found[0]["user"] == getpass.getuser()
    assert found[0]["host"] == socket.gethostname()
    assert {name: found[0][name] for name in ("commit", "clean")} == code_commit()


@pytest.mark.ray
def test_a_failing_stage_shows_its_error_and_the_stages_it_skips(clips: Path, tmp_path: Path, head: Any):
    done = submit(clips, tmp_path / "run", "--set", "face.min_side_pixels=5000")
    assert done.returncode == 1
    assert "preprocess: FAILED: every clip of the train and val and test split was dropped (" in done.stdout
    assert sorted(lines_that(done.stdout, "skipped, needs preprocess")) == sorted(ALL[1:])
    assert f"arspm logs {tmp_path}/run preprocess" in done.stderr
    assert "Traceback" in arspm("logs", tmp_path / "run", "preprocess").stdout
