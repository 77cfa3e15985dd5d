"""The content of metrics.json, and that a run is read through arspm.storage only."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import fsspec
import pytest

from arspm import storage
from arspm.config.presets import PRESETS
from arspm.corpus.drops import first_examples
from arspm.report import gather
from arspm.report.run_page import METRICS, PAGE, write_report
from arspm.runs import stages


def _no_constants(name: str) -> NoReturn:
    raise AssertionError(f"{name} is not JSON")


def test_metrics_json_contains_the_evaluation_and_the_stages(make_run: Callable[..., Any]) -> None:
    run = make_run()
    storage.write_json(f"{run.uri}/report/{stages.SUCCESS}", {"seconds": 1.0})  # from an earlier report
    files, figures = write_report(run.config, run.uri, PRESETS["smoke"])
    found = json.loads(storage.read_bytes(f"{run.uri}/{METRICS}"), parse_constant=_no_constants)
    assert {name: found[name] for name in run.evaluated} == run.evaluated
    assert found["stages"]["encoder"] == 3728.058
    assert list(found["stages"]) == [stage for stage in stages.STAGES if stage != "report"]
    assert found["total_seconds"] == pytest.approx(sum(found["stages"].values()))
    assert found["corpus"]["splits"]["test"] == {"rows": 41, "videos": 13, "shards": 1}
    assert (found["corpus"]["num_rows"], found["corpus"]["dropped"]) == (1276, {"no_face": 5})
    assert found["prior"]["priors"]["female"]["n"] == 700
    assert found["prior"]["priors"]["neutral"]["clips"] == "ab" * 32
    assert found["gender_accuracy"] == found["vggface_accuracy"] == 0.875
    assert found["fingerprints"]["decoder"] == "5" * 64
    assert found["usage"]["decoder"]["gpu_hours"] == pytest.approx(4 * 83.833 / 3600)
    assert found["spent"]["unpriced"] == {"gender": "started by hand"}
    assert found["computed_by"] == {}
    assert found["config"] == run.config.model_dump(mode="json")
    assert found["versions"]["python"]
    assert found["other_versions"] == {}
    assert files == {path: storage.describe(f"{run.uri}/{path}") for path in (METRICS, PAGE)}
    assert figures["verdicts"] == {"prior-only": "undecided", "gender-prior-only": "worse", "shuffled-speech": "better"}
    json.dumps(figures, allow_nan=False)


def test_without_labels_missing_values_are_null(make_run: Callable[..., Any]) -> None:
    run = make_run(labelled=False)
    found = gather.gather(run.config, run.uri)
    assert found["gender_accuracy"] is None
    assert found["training"]["gender"] == {"trained": False, "reason": "labels.csv names no speaker of one sex"}
    assert found["table5"] is None
    row = next(row for row in found["table4"] if row["model"] == "gender-prior-only")
    assert row["cos_degrees"] is None
    assert row["cos_degrees_interval"] is None
    verdicts = {entry["verdict"] for entry in found["comparisons"] if entry["against"] == "gender-prior-only"}
    assert verdicts == {None}


def test_nan_and_infinity_become_null(make_run: Callable[..., Any]) -> None:
    run = make_run()
    path = Path(run.uri, "evaluate", "metrics.json")
    value = json.loads(path.read_text())
    value["table4"][0]["l1_interval"] = [float("nan"), float("inf")]
    path.write_text(json.dumps(value))  # Python writes NaN and Infinity, and reads them
    write_report(run.config, run.uri, None)
    found = json.loads(storage.read_bytes(f"{run.uri}/{METRICS}"), parse_constant=_no_constants)
    assert found["table4"][0]["l1_interval"] == [None, None]


def test_without_an_evaluation_the_error_names_the_missing_file(make_run: Callable[..., Any]) -> None:
    run = make_run()
    storage.remove(f"{run.uri}/evaluate/metrics.json")
    with pytest.raises(FileNotFoundError, match=r"evaluate/metrics\.json: no such file"):
        write_report(run.config, run.uri, None)
    assert not storage.exists(f"{run.uri}/{PAGE}")


def test_stages_with_other_library_versions_are_reported(make_run: Callable[..., Any]) -> None:
    run = make_run()
    path = Path(run.uri, "decoder", stages.SUCCESS)
    value = json.loads(path.read_text())
    value["versions"]["torch"] = "0.4.1"
    path.write_text(json.dumps(value))
    assert gather.gather(run.config, run.uri)["other_versions"] == {"decoder": {"torch": "0.4.1"}}


def test_examples_are_the_first_dropped_clips_of_each_reason(
    make_run: Callable[..., Any], drop: Callable[..., Any]
) -> None:
    drops = [drop(line, "no_face", f"a_{line}", "") for line in range(10)] + [
        drop(10, "bad_row", None, "three columns")
    ]
    run = make_run(dropped=drops)
    found = first_examples(f"{run.uri}/corpus", ["no_face", "bad_row"], 3)
    assert [example["row"] for example in found["no_face"]] == [0, 1, 2]
    assert found["bad_row"] == [{"row": 10, "clip_id": None, "detail": "three columns"}]


@pytest.fixture
def memory() -> Iterator[str]:
    """A URI that, like s3://, is only accessible through fsspec."""
    yield "memory://bucket/run"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_a_run_in_an_object_store_gets_the_same_report(make_run: Callable[..., Any], memory: str) -> None:
    run = make_run()
    for path in storage.files_below(run.uri):
        storage.write_bytes(f"{memory}/{path}", storage.read_bytes(f"{run.uri}/{path}"))
    files, _ = write_report(run.config, memory, PRESETS["smoke"])
    assert storage.read_json(f"{memory}/{METRICS}") == gather.gather(run.config, run.uri)
    assert files[PAGE] == storage.describe(f"{memory}/{PAGE}")
