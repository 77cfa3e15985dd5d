from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arspm import storage
from arspm.config import Config, Resources, field_names, override
from arspm.runs import inventory, stages
from arspm.runs.stages import STAGES

ROOT = Path(__file__).parents[2]
ALL = set(STAGES)
# The fields on which no stage's result depends: they name a run, or change its speed.
NOT_IN_ANY_FINGERPRINT = {
    "preset",
    *(f"ingest.{name}" for name in ("prefetch_batches", "path", "cache_gib", "cache_folder")),
    "data.inventory_minutes",
    "provenance",
    "max_hashed_gib",
} | {name for name in field_names() if name.startswith("resources.")}


def changed(changes: dict[str, object], inputs: str = "inputs") -> set[str]:
    before = stages.fingerprints(Config(), "inputs")
    after = stages.fingerprints(override(Config(), changes), inputs)
    return {stage for stage in STAGES if before[stage] != after[stage]}


def finish(run: str, stage: str, fingerprint: str = "f", **figures: float) -> None:
    stages.commit(run, stage, fingerprint=fingerprint, config=Config(), files={}, seconds=1.0, figures=figures)


# --- fingerprints


def test_dependencies_come_first_in_the_list_of_stages():
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert set(stage.needs) <= seen, name
        seen.add(name)


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_has_a_program_and_its_resources_are_a_section(name):
    assert Path(f"{ROOT}/jobs/{name}.py").is_file()
    assert STAGES[name].resources in ("", *Resources.model_fields)


DECODER_AND_AFTER = {"decoder", "encoder", "evaluate", "report"}
ENCODER_AND_AFTER = {"encoder", "evaluate", "report"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("loss.lambda1", 2.0, ENCODER_AND_AFTER),
        ("speech_encoder.cbam", "parallel", ENCODER_AND_AFTER),
        ("prior.kind", "female", ENCODER_AND_AFTER),
        ("training.encoder.epochs", 3, ENCODER_AND_AFTER),
        ("training.encoder.warmup_epochs", 2, ENCODER_AND_AFTER),
        ("prior.num_faces", 3, {"prior"} | ENCODER_AND_AFTER),
        ("face_decoder.width", 0.5, DECODER_AND_AFTER),
        ("decoder_loss.alpha", 0.5, DECODER_AND_AFTER),
        ("training.decoder.learning_rate", 0.5, DECODER_AND_AFTER),
        ("gender.width", 0.5, {"gender", "prior"} | ENCODER_AND_AFTER),
        ("gender.weights", "runs/vox1", {"gender", "prior"} | ENCODER_AND_AFTER),
        ("gender.predict_missing", True, {"gender", "prior"} | ENCODER_AND_AFTER),
        ("gender.min_confidence", 0.9, {"prior"} | ENCODER_AND_AFTER),
        ("training.gender.epochs", 3, {"gender", "prior"} | ENCODER_AND_AFTER),
        ("vggface.feature_dtype", "float16", ALL - {"preprocess", "vggface", "gender"}),
        ("vggface.width", 0.5, ALL - {"preprocess", "gender"}),
        ("training.vggface.augment", True, ALL - {"preprocess", "gender"}),
        ("image_size", 192, ALL - {"preprocess", "gender"}),
        ("ingest.subset", 5, ALL - {"preprocess"}),
        ("ingest.window_rows", 512, ALL - {"preprocess"}),
        ("seed", 1, ALL - {"preprocess"}),
        ("data.storage", "spectrogram", ALL),
        ("face.margin", 0.0, ALL),
        ("data.filter", "face_score > 0.5", ALL - {"preprocess"}),
        ("evaluate.num_resamples", 10, {"evaluate", "report"}),
        ("oracle.num_draws", 5, {"oracle", "evaluate", "report"}),
        ("oracle.speakers", "speakers.parquet", {"oracle", "evaluate", "report"}),
        ("resources.encoder.num_workers", 4, set()),
        ("resources.encoder.threads", 2, set()),
        ("ingest.prefetch_batches", 1, set()),
        ("preset", "mine", set()),
    ],
)
def test_a_setting_changes_the_stages_that_read_it_and_their_dependents(name, value, expected):
    assert changed({name: value}) == expected


def test_other_inputs_change_every_stage():
    assert changed({}, "other inputs") == ALL
    assert changed({}) == set()


def test_every_field_is_read_by_a_stage_or_listed_as_read_by_none():
    """A new field in neither list would silently reuse finished stages."""

    def covers(read: str, name: str) -> bool:
        return name == read or name.startswith(f"{read}.")

    reads = {read for stage in STAGES.values() for read in stage.reads}
    for read in reads:
        assert any(covers(read, name) for name in field_names()), f"{read} is neither a field nor a section"
    unread = {name for name in field_names() if not any(covers(read, name) for read in reads)}
    assert unread == NOT_IN_ANY_FINGERPRINT


def test_a_field_that_was_added_later_leaves_finished_stages_done():
    """The fingerprint as it was computed before recipes had `warmup_epochs`."""
    tree = Config().model_dump(mode="json")
    assert tree["training"]["gender"].pop("warmup_epochs") == 0
    read = {}
    for path in STAGES["gender"].reads:
        read[path] = tree
        for part in path.split("."):
            read[path] = read[path][part]
    parts = {"format": stages.FORMAT, "stage": "gender", "config": read, "needs": {"preprocess": "p"}}
    earlier = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    assert stages.fingerprint(Config(), "gender", {"preprocess": "p"}) == earlier


def test_each_stage_has_its_own_fingerprint():
    found = stages.fingerprints(Config(), "inputs")
    assert len(set(found.values())) == len(STAGES)
    assert all(len(value) == 64 for value in found.values())


def test_inputs_are_the_tables_contents_and_the_clips_names_and_sizes(tmp_path):
    def describe(labels: bool = True) -> str:
        return inventory.find_inputs(
            override(
                Config(),
                {
                    "data.csv": f"{tmp_path}/clips.csv",
                    "data.clips": f"{tmp_path}/clips",
                    "data.labels": f"{tmp_path}/labels.csv" if labels else "",
                },
            )
        ).hash

    (tmp_path / "clips").mkdir()
    (tmp_path / "clips.csv").write_text("a,0,1,,\n")
    (tmp_path / "labels.csv").write_text("b")
    (tmp_path / "clips" / "x.mp4").write_bytes(b"123")
    hashes = [describe()]
    assert describe() == hashes[0]
    (tmp_path / "clips" / "x.mp4").write_bytes(b"1234")
    hashes.append(describe())
    (tmp_path / "clips" / "y.mp4").write_bytes(b"")
    hashes.append(describe())
    hashes.append(describe(labels=False))
    # the same bytes in total, divided differently between the two files
    (tmp_path / "clips.csv").write_text("a,0,1,,\nb")
    (tmp_path / "labels.csv").write_text("")
    hashes.append(describe())
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"labels\.csv: no such file"):
        describe()
    (tmp_path / "clips.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.csv: .*clips\.csv does not exist"):
        describe()


@pytest.mark.parametrize(
    "field",
    [
        *("vggface.weights", "gender.weights", "face.detector", "oracle.speakers", "evaluate.judge"),
        "evaluate.recognizer",
    ],
)
def test_a_missing_file_of_a_later_stage_is_reported_first(tmp_path, field):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "x.mp4").touch()
    (tmp_path / "clips.csv").write_text("a,0,1,,\n")
    changes = {"data.csv": f"{tmp_path}/clips.csv", "data.clips": f"{tmp_path}/clips", field: f"{tmp_path}/none"}
    with pytest.raises(FileNotFoundError, match=rf"^{field}: {tmp_path}/none does not exist$"):
        inventory.find_inputs(override(Config(), changes))
    (tmp_path / "none").touch()
    if field == "evaluate.recognizer":
        declared = {"size": 112, "channels": "rgb", "mean": [0] * 3, "std": [1] * 3, "alignment": "arcface"}
        with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/none\.json is missing: it declares the size"):
            inventory.find_inputs(override(Config(), changes))
        storage.write_json(f"{tmp_path}/none.json", declared | {"size": 0})
        with pytest.raises(ValueError, match=rf"^{tmp_path}/none\.json: not the input of a recognizer: size: "):
            inventory.find_inputs(override(Config(), changes))
        storage.write_json(f"{tmp_path}/none.json", declared)
    inventory.find_inputs(override(Config(), changes))


@pytest.mark.parametrize("missing", ["csv", "clips"])
def test_missing_inputs_are_named(tmp_path, missing):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips.csv").write_text("")
    uris = {"data.csv": f"{tmp_path}/clips.csv", "data.clips": f"{tmp_path}/clips"}
    with pytest.raises(FileNotFoundError, match=f"data.{missing}: not set"):
        inventory.find_inputs(override(Config(), uris | {f"data.{missing}": ""}))
    with pytest.raises(FileNotFoundError, match=f"data.{missing}: .*elsewhere does not exist"):
        inventory.find_inputs(override(Config(), uris | {f"data.{missing}": f"{tmp_path}/elsewhere"}))


def test_inputs_of_the_other_formats_are_their_trees(tmp_path):
    def describe(**changes: str) -> str:
        uris = {"csv": f"{tmp_path}/meta.csv", "clips": f"{tmp_path}/wav", "faces": f"{tmp_path}/faces"}
        uris |= {"format": "voxceleb"} | changes
        return inventory.find_inputs(override(Config(), {f"data.{name}": value for name, value in uris.items()})).hash

    for name in ("wav/id1/v/1.wav", "faces/id1/v/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "meta.csv").write_text("a")
    hashes = [describe()]
    (tmp_path / "wav/README.txt").write_text("a stray file changes nothing")
    (tmp_path / "wav/._1.wav").write_bytes(b"of macOS")
    assert describe() == hashes[0]
    (tmp_path / "faces/id1/v/2.jpg").write_bytes(b"1")
    hashes.append(describe())
    (tmp_path / "meta.csv").write_text("b")
    hashes.append(describe())
    hashes.append(describe(format="folder"))  # reads the clips alone
    (tmp_path / "meta.csv").write_text("c")
    (tmp_path / "faces/id1/v/3.jpg").write_bytes(b"1")
    assert describe(format="folder") == hashes[-1] == describe(format="folder", csv="", faces="")
    hashes.append(describe(format="folder", labels=f"{tmp_path}/meta.csv"))
    assert len(set(hashes)) == len(hashes)
    assert describe(faces="") != describe()
    for missing in ("csv", "clips"):
        with pytest.raises(FileNotFoundError, match=f"data.{missing}: not set"):
            describe(**{missing: ""})
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"data.faces: {tmp_path}/empty contains no media files"):
        describe(faces=f"{tmp_path}/empty")


# --- done or not


def test_a_stage_is_done_with_its_fingerprint_and_the_current_manifests(tmp_path):
    run = str(tmp_path)
    finish(run, "preprocess")
    assert stages.done(run, "vggface", "v") is None
    finish(run, "vggface", "v", accuracy=0.5)
    found = stages.done(run, "vggface", "v")
    assert found is not None
    assert found.figures == {"accuracy": 0.5}
    assert stages.done(run, "vggface", "w") is None


def test_a_stage_is_not_done_after_an_upstream_manifest_changed(tmp_path):
    run = str(tmp_path)
    finish(run, "preprocess")
    finish(run, "vggface")
    before = storage.read_bytes(f"{run}/preprocess/{stages.SUCCESS}")
    stages.begin(run, "preprocess", "f")
    assert stages.done(run, "vggface", "f") is None  # upstream has no manifest
    finish(run, "preprocess", rows=1)
    assert stages.done(run, "vggface", "f") is None  # upstream has another result
    storage.write_bytes(f"{run}/preprocess/{stages.SUCCESS}", before)
    assert stages.done(run, "vggface", "f") is not None


def test_the_manifest_has_files_configuration_and_versions(tmp_path):
    run = str(tmp_path)
    described = storage.write_bytes(f"{run}/preprocess/file", b"abc")
    stages.commit(
        run,
        "preprocess",
        fingerprint="f",
        config=Config(seed=7),
        files={"preprocess/file": described},
        seconds=1.23456,
        figures={"n": 1},
    )
    value = storage.read_json(f"{run}/preprocess/{stages.SUCCESS}")
    assert value["files"] == {"preprocess/file": storage.describe(f"{run}/preprocess/file")}
    assert Config.model_validate(value["config"]) == Config(seed=7)
    assert {"python", "torch", "ray", "numpy"} <= set(value["versions"])
    assert value["upstream"] == {}
    assert value["seconds"] == 1.235


def test_the_first_commit_wins(tmp_path):
    run = str(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: finish(run, "preprocess", n=n), range(8)))
    first = storage.read_bytes(f"{run}/preprocess/{stages.SUCCESS}")
    finish(run, "preprocess", n=99)
    assert storage.read_bytes(f"{run}/preprocess/{stages.SUCCESS}") == first


def test_concurrent_runs_with_other_settings_leave_the_stage_not_done(tmp_path):
    """The files may be from either run, so neither manifest is valid."""
    run = str(tmp_path)
    finish(run, "preprocess", fingerprint="a" * 64)
    with pytest.raises(ValueError, match=r"_SUCCESS\.json: the stage also ran with other settings at the same time"):
        finish(run, "preprocess", fingerprint="b" * 64)
    assert stages.success(run, "preprocess") is None


@pytest.mark.parametrize("value", [{}, [], "text", {"fingerprint": "f"}, 3])
def test_an_invalid_manifest_is_named(tmp_path, value):
    storage.write_json(f"{tmp_path}/preprocess/{stages.SUCCESS}", value)
    with pytest.raises(ValueError, match=r"preprocess/_SUCCESS\.json: not a stage's manifest"):
        stages.success(str(tmp_path), "preprocess")


# --- begin


def test_begin_clears_the_folder_and_keeps_its_own_training(tmp_path):
    run = str(tmp_path)
    finish(run, "preprocess")
    finish(run, "gender")
    own = stages.training_name(run, "gender", "mine")
    kept = [f"{own}/checkpoint/model.safetensors", f"{own}/state.json"]
    other = stages.training_name(run, "gender", "other's")
    assert own != other
    leftovers = ["model.safetensors", f"{other}/checkpoint/model.safetensors", f"{own}x/file", "deep/file"]
    for path in kept + leftovers:
        storage.write_bytes(f"{run}/gender/{path}", b"")
    storage.write_bytes(f"{run}/decoder/model.safetensors", b"")

    stages.begin(run, "gender", "mine")
    assert list(storage.files_below(f"{run}/gender")) == sorted(kept)
    assert [path.name for path in (tmp_path / "gender").iterdir()] == [own]  # and no empty folder
    assert stages.success(run, "preprocess") is not None
    assert storage.exists(f"{run}/decoder/model.safetensors")


@pytest.mark.parametrize("is_resumed", [True, False])
def test_begin_keeps_what_the_live_page_shows_of_its_own_training(tmp_path, is_resumed):
    run = str(tmp_path)
    finish(run, "preprocess")
    own = stages.training_name(run, "gender", "mine" if is_resumed else "other's")
    for path in (f"{own}/state.json", "live.json", "epochs/00001.jpg"):
        storage.write_bytes(f"{run}/gender/{path}", b"")
    stages.begin(run, "gender", "mine")
    kept = {f"{own}/state.json", "live.json", "epochs/00001.jpg"} if is_resumed else set()
    assert set(storage.files_below(f"{run}/gender")) == kept


def test_begin_in_an_empty_run_does_nothing(tmp_path):
    stages.begin(str(tmp_path), "preprocess", "f")
    assert list(tmp_path.iterdir()) == []


def test_training_with_other_upstream_manifests_starts_from_scratch(tmp_path):
    """A training that was interrupted with another decoder must not resume with this one."""
    run = str(tmp_path)
    finish(run, "preprocess")
    before = stages.training_name(run, "gender", "f")
    assert stages.training_name(run, "gender", "f") == before
    stages.begin(run, "preprocess", "f")
    finish(run, "preprocess", rows=1)
    assert stages.training_name(run, "gender", "f") != before


def test_the_manifest_is_plain_json(tmp_path):
    finish(str(tmp_path), "preprocess")
    json.loads((tmp_path / "preprocess" / stages.SUCCESS).read_text())
    with pytest.raises(ValueError, match="JSON compliant"):
        finish(str(tmp_path), "vggface", loss=float("nan"))
    assert not (tmp_path / "vggface").exists()
