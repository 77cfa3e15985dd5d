"""The gender stage with a network of another run, and models trained from a corpus without any label."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from arspm import storage
from arspm.config import Config, ConfigError, override
from arspm.config.presets import preset
from arspm.config.variants import TABLE4
from arspm.corpus import schema, tables
from arspm.corpus.genders import read_genders
from arspm.corpus.prune import unused_files
from arspm.distributed import local
from arspm.distributed.evaluate import evaluate
from arspm.distributed.train.rows import gather_rows
from arspm.media.audio import from_int16, spectrogram
from arspm.model import speech_portrait
from arspm.model.gender_classifier import GenderClassifier
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from jobs import chain, encoder, gender, oracle, prior
from jobs.ablation_plan import plan
from jobs.stage import run_stage
from jobs.submission import resources_of

CONFIG = override(
    preset("smoke"),
    {"data.storage": "waveform", "evaluate.num_resamples": 50, "evaluate.num_portraits": 2}
    | {"training.encoder.epochs": 1, "training.gender.epochs": 1},
)
SIZES = {"train": (13, 11), "val": (8,), "test": (9,)}


class Trained(NamedTuple):
    """Another run with a gender network, and that network."""

    run: str
    network: GenderClassifier


def finish(run: str, stage: str, config: Config = CONFIG, **more: Any) -> None:
    stages.commit(
        run, stage, **({"fingerprint": "f" * 64, "config": config, "files": {}, "seconds": 1.0, "figures": {}} | more)
    )


def save(run: str, stage: str, network: torch.nn.Module) -> dict[str, Any]:
    path = Path(run, stage, artifacts.MODEL)
    path.parent.mkdir(parents=True)
    checkpoint.write_weights(path, network.state_dict())
    return {f"{stage}/{artifacts.MODEL}": storage.describe(str(path))}


@pytest.fixture
def heard(tmp_path: Path) -> Trained:
    torch.manual_seed(0)
    network = speech_portrait.gender_classifier(CONFIG).eval()
    run = str(tmp_path / "vox1")
    finish(run, "gender", files=save(run, "gender", network))
    return Trained(run, network)


@pytest.fixture
def unlabelled(write_corpus: Callable[..., Any], tmp_path: Path, heard: Trained) -> tuple[str, Any]:
    """A run with a corpus without any label and everything else that an encoder needs, and the corpus's rows.

    The bias of the other run's network is changed, so that it predicts both sexes, and half of the clips surely.
    """
    torch.set_num_threads(1)
    _, told = write_corpus(SIZES, feature_dim=64, labelled=False)
    speech = torch.from_numpy(np.concatenate([rows[schema.WAVEFORM] for rows in told.values()]))
    with torch.no_grad():
        logits = heard.network(spectrogram(from_int16(speech)))
        margin = logits[:, 0] - logits[:, 1]
        heard.network.fc2.bias[1] += margin.median()
        scale = 2.0 / (margin - margin.median()).abs().median()  # half of the confidences are above 0.88
        heard.network.fc2.weight *= scale
        heard.network.fc2.bias *= scale
    storage.remove(storage.join(heard.run, "gender"))
    finish(heard.run, "gender", files=save(heard.run, "gender", heard.network))
    run = str(tmp_path)
    torch.manual_seed(1)
    save(run, "vggface", speech_portrait.vggface(CONFIG, 5))
    files = save(run, "decoder", speech_portrait.face_decoder(CONFIG))
    for stage in ("preprocess", "vggface", "features"):
        finish(run, stage)
    finish(run, "decoder", files=files)
    return run, told


def with_weights(heard: Trained, **changes: Any) -> Config:
    return override(CONFIG, {"gender.weights": heard.run} | {name.replace("__", "."): x for name, x in changes.items()})


@torch.no_grad()
def expected_predictions(network: GenderClassifier, waveforms: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the sex and the confidence of each clip, computed clip by clip."""
    logits = np.concatenate([network(spectrogram(from_int16(torch.from_numpy(each[None])))) for each in waveforms])
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return [schema.GENDERS[int(row)] for row in logits.argmax(axis=1)], (odds / odds.sum(axis=1, keepdims=True)).max(1)


# --- predictions


def test_the_network_of_another_run_predicts_every_clip_of_all_splits(
    unlabelled: tuple[str, Any], heard: Trained
) -> None:
    run, told = unlabelled
    with local.in_process():
        run_stage("gender", gender.gender, run, with_weights(heard))
    done = stages.success(run, "gender")
    assert done is not None
    assert done.figures == {
        "weights": f"{heard.run}/gender/model.safetensors",
        "sha256": storage.describe(f"{heard.run}/gender/model.safetensors")["sha256"],
        "num_predicted": 41,
        "num_reused": 0,
        "val_accuracy": None,  # no label
    }
    assert len(done.files) == 1 + 4
    assert done.files == {path: storage.describe(storage.join(run, path)) for path in done.files}
    copied = artifacts.load_gender_classifier(run, CONFIG)
    assert copied is not None
    assert all(torch.equal(copied.state_dict()[name], each) for name, each in heard.network.state_dict().items())
    for split, rows in told.items():
        names, confidences = expected_predictions(heard.network, rows[schema.WAVEFORM])
        assert set(names) == {"female", "male"}
        table = tables.read_columns(
            tables.open_split(stages.corpus(run), split),
            "genders",
            (schema.CLIP_ID, schema.PREDICTED_GENDER, schema.GENDER_CONFIDENCE),
        )
        assert table[schema.CLIP_ID].to_pylist() == rows[schema.CLIP_ID]
        assert table[schema.PREDICTED_GENDER].to_pylist() == names
        np.testing.assert_allclose(table[schema.GENDER_CONFIDENCE], confidences, atol=1e-4)
        assert 0.5 <= confidences.min() < 0.75 < 0.9 < confidences.max() <= 1


def test_a_corpus_of_spectrograms_has_predictions_too(
    write_corpus: Callable[..., Any], heard: Trained, tmp_path: Path
) -> None:
    _, told = write_corpus(dict.fromkeys(schema.SPLITS, (3,)), speech=schema.SPECTROGRAM)
    with local.in_process():
        gender.gender(with_weights(heard, data__storage="spectrogram"), str(tmp_path), "f" * 64)
    with torch.no_grad():
        logits = heard.network(torch.from_numpy(told["val"][schema.SPECTROGRAM]).float())
    table = pq.read_table(tmp_path / "corpus/val/genders/shard-00000.parquet")
    assert table[schema.PREDICTED_GENDER].to_pylist() == [schema.GENDERS[each] for each in logits.argmax(dim=1)]


def test_predictions_of_unchanged_shards_are_used_again(unlabelled: tuple[str, Any], heard: Trained) -> None:
    """But not those of a shard with other clips, or of another network. arspm prune knows their receipts."""
    run, _ = unlabelled
    uri = storage.join(stages.corpus(run), "manifest.json")
    manifest = storage.read_json(uri)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            shard["key"] = shard["name"]
    config = with_weights(heard)

    def num_reused() -> Any:
        storage.write_json(uri, manifest)
        with local.in_process():
            files, figures = gender.gender(config, run, "f" * 64)
        assert len(files) == 1 + 4
        assert files == {path: storage.describe(storage.join(run, path)) for path in files}
        return figures["num_reused"]

    assert num_reused() == 0
    assert num_reused() == 41
    manifest["splits"]["train"]["shards"][1]["key"] = "other clips"
    assert num_reused() == 41 - 11
    assert unused_files(stages.corpus(run)) == {}
    with torch.no_grad():
        heard.network.fc2.bias[0] += 1
    storage.remove(storage.join(heard.run, "gender"))
    finish(heard.run, "gender", files=save(heard.run, "gender", heard.network))
    assert num_reused() == 0


def test_the_accuracy_of_a_network_of_another_run_is_measured_on_labels(
    write_corpus: Callable[..., Any], heard: Trained, tmp_path: Path
) -> None:
    _, told = write_corpus({"train": (4,), "val": (14,), "test": (4,)})
    with local.in_process():
        _, figures = gender.gender(with_weights(heard), str(tmp_path), "f" * 64)
    names, _ = expected_predictions(heard.network, told["val"][schema.WAVEFORM])
    pairs = [(a, b) for a, b in zip(names, told["val"][schema.GENDER], strict=True) if b]
    assert len(pairs) < 14
    assert figures["val_accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))


def test_a_network_trained_here_predicts_only_if_asked_to(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    write_corpus({"train": (24,), "val": (12,), "test": (4,)})
    with local.in_process():
        files, figures = gender.gender(CONFIG, str(tmp_path), "f" * 64)
        assert sorted(files) == ["gender/history.json", "gender/model.safetensors"]
        assert not {"num_predicted", "weights"} & figures.keys()
        assert not (tmp_path / "corpus/train/genders").exists()
        config = override(CONFIG, {"gender.predict_missing": "true"})
        more, counts = gender.gender(config, str(tmp_path), "f" * 64)
    assert (len(more), counts["num_predicted"]) == (2 + 3, 40)
    assert more["gender/model.safetensors"] == files["gender/model.safetensors"]
    assert counts["val_accuracy"] == figures["val_accuracy"]  # of training, on labels
    assert read_genders(tables.open_split(f"{tmp_path}/corpus", "train"), 0.5).counts["unknown"] == 0


def test_predictions_without_a_network_are_refused(write_corpus: Callable[..., Any], tmp_path: Path) -> None:
    write_corpus(SIZES, labelled=False)
    with local.in_process():
        assert gender.gender(CONFIG, str(tmp_path), "f" * 64)[1]["trained"] is False
        for field, value in (("gender.predict_missing", "true"), ("prior.kind", "gender")):
            config = override(CONFIG, {field: value})
            with pytest.raises(ValueError, match=rf"^{field}\S* needs a gender classifier, but labels\.csv .*weights"):
                gender.gender(config, str(tmp_path), "f" * 64)


def test_the_stage_requests_the_resources_of_its_predictions() -> None:
    workers = {"resources.gender.num_workers": 2, "resources.gender.cpus": 3, "resources.read.cpus": 0.5}
    config = override(CONFIG, workers | {"resources.infer.num_tasks": 4, "resources.infer.cpus": 2})
    assert resources_of(config, "gender").num_cpus == 2 * 3 + 2 * 0.5
    predicting = override(config, {"gender.predict_missing": True})
    assert resources_of(predicting, "gender").num_cpus == 4 * 2  # after training
    assert resources_of(override(config, {"gender.weights": "runs/vox1"}), "gender").num_cpus == 4 * 2
    assert resources_of(predicting, "prior").num_cpus == 0
    on_gpus = override(predicting, {"resources.infer.gpus": 0.5, "resources.read.num_tasks": 3})
    assert resources_of(on_gpus, "features").num_cpus == 4 * 2 + 4 * 3 * 0.5  # which read for the networks


# --- what gender.weights may name


def test_a_file_is_a_network_too(write_corpus: Callable[..., Any], heard: Trained, tmp_path: Path) -> None:
    write_corpus(dict.fromkeys(schema.SPLITS, (3,)))
    config = override(CONFIG, {"gender.weights": f"{heard.run}/gender/model.safetensors"})
    with local.in_process():
        _, figures = gender.gender(config, str(tmp_path), "f" * 64)
    assert figures["num_predicted"] == 9


def lines_of(error: pytest.ExceptionInfo[Exception]) -> int:
    return len(str(error.value).splitlines())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: path.write_bytes(b"not a network"),
            r"\(not readable as safetensors .*\)",
        ),
        (
            lambda path: checkpoint.write_weights(path, speech_portrait.face_decoder(CONFIG).state_dict()),
            r"\(cbam_features\S+ is not of this network\)",
        ),
        (
            lambda path: checkpoint.write_weights(path, GenderClassifier(width=0.25).state_dict()),
            r"\(convs\.2\.0\.weight is .* instead of .*\)",
        ),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "other" / "network.safetensors"
    path.parent.mkdir()
    make(path)
    config = override(CONFIG, {"gender.weights": str(path)})
    with pytest.raises(
        ValueError, match=rf"^gender\.weights: {path} is not a network of gender\.width=0\.0625 {message}"
    ) as error:
        gender.gender(config, str(tmp_path / "run"), "f" * 64)
    assert lines_of(error) == 1
    assert not (tmp_path / "run").exists()


def test_a_network_with_numbers_that_are_not_is_refused(
    write_corpus: Callable[..., Any], heard: Trained, tmp_path: Path
) -> None:
    write_corpus(dict.fromkeys(schema.SPLITS, (3,)))
    with torch.no_grad():
        heard.network.fc2.bias[0] = torch.nan
    save(str(tmp_path / "broken"), "gender", heard.network)
    config = override(CONFIG, {"gender.weights": f"{tmp_path}/broken/gender/model.safetensors"})
    with local.in_process(), pytest.raises(ValueError, match=r"output for clip train0000_0\.0_6\.5 is not a number"):
        gender.gender(config, str(tmp_path), "f" * 64)


def test_a_run_without_a_network_is_one_line(heard: Trained, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "network.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"network\.pt is neither a run whose stage gender is done nor"):
        gender.gender(override(CONFIG, {"gender.weights": f"{tmp_path}/network.pt"}), str(tmp_path / "run"), "f" * 64)
    config = override(CONFIG, {"gender.weights": other})
    with pytest.raises(
        FileNotFoundError, match=rf"^gender\.weights: {other} is neither a run whose stage gender is do"
    ):
        gender.gender(config, str(tmp_path / "run"), "f" * 64)
    finish(other, "gender", figures={"trained": False, "reason": "labels.csv labels nobody"})
    with pytest.raises(
        ValueError, match=rf"^gender\.weights: {other} has no gender network: labels\.csv labels nobody"
    ):
        gender.gender(config, str(tmp_path / "run"), "f" * 64)
    wide = with_weights(heard, gender__width=0.5)
    with pytest.raises(ConfigError, match=rf"^gender\.width: must be 0\.0625, which the network of .*{heard.run} has"):
        gender.gender(wide, str(tmp_path / "run"), "f" * 64)
    checkpoint.write_weights(Path(heard.run, "gender", artifacts.MODEL), GenderClassifier(width=0.0625).state_dict())
    with pytest.raises(ValueError, match=r"model\.safetensors differs from its manifest"):
        gender.gender(with_weights(heard), str(tmp_path / "run"), "f" * 64)


def test_a_run_cannot_use_its_own_network(write_corpus: Callable[..., Any], heard: Trained, tmp_path: Path) -> None:
    """Its stage would first remove the file. The chain says so before it begins, and needs no cluster for that."""
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a_0.0_6.0.mp4").write_bytes(b"")
    (tmp_path / "clips.csv").write_text("a,0.0,6.0,,\n")
    data = {"data.csv": f"{tmp_path}/clips.csv", "data.clips": str(clips)}
    before = storage.files_below(heard.run)
    for weights in (heard.run, f"{heard.run}/gender/model.safetensors"):
        config = override(CONFIG, data | {"gender.weights": weights})
        with pytest.raises(ConfigError, match=rf"^gender\.weights: {weights} is of this run, whose stage gender would"):
            chain.submit_run(config, heard.run, "http://127.0.0.1:1", on_event=lambda event: None)
    assert storage.files_below(heard.run) == before


# --- all models of Table 4


def test_all_models_of_table_4_train_from_a_corpus_without_any_label(
    unlabelled: tuple[str, Any], heard: Trained
) -> None:
    """One epoch each, with a minimum confidence. Models of one sex are trained on the clips that are predicted so."""
    run, told = unlabelled
    config = with_weights(heard, gender__min_confidence=0.75)
    by_split = {split: expected_predictions(heard.network, rows[schema.WAVEFORM]) for split, rows in told.items()}
    sure = {
        split: [name if level >= 0.75 else None for name, level in zip(*pair, strict=True)]
        for split, pair in by_split.items()
    }
    assert all({*names} == {"female", "male", None} for names in sure.values())
    with local.in_process():
        run_stage("gender", gender.gender, run, config)
        run_stage("prior", prior.prior, run, config)
        run_stage("oracle", oracle.oracle, run, config)
        figures = stages.success(run, "prior").figures  # type: ignore[union-attr]
        assert figures["labels"] == {
            split: {"labelled": 0, "predicted": len(names) - names.count(None), "unknown": names.count(None)}
            for split, names in sure.items()
        }
        means = artifacts.load_priors(run)
        for sex in schema.GENDERS:
            rows = [row for row, name in enumerate(sure["train"]) if name == sex]
            assert figures["priors"][sex]["n"] == figures["priors"][sex]["num_predicted"] == len(rows)
            expected = told["train"][schema.FACE_FEATURE][rows].mean(axis=0)
            np.testing.assert_allclose(means[sex], expected, rtol=1e-5, atol=1e-6)
        assert figures["priors"]["neutral"]["gender_balanced"]

        models, missing = plan(run, TABLE4, 1)
        assert missing == []
        assert [model.variant for model in models] == list(TABLE4)
        for model in models:
            assert model.config.gender == config.gender
            run_stage("encoder", encoder.encoder, model.run, model.config, model.fingerprints["encoder"])
            history = stages.history(model.run, "encoder")
            assert history is not None
            assert len(history["epochs"]) == 1
            if model.variant in schema.GENDERS:
                for split, reading in zip(
                    ("train", "val"), gather_rows("encoder", model.config, run).readings, strict=True
                ):
                    own = [row for row, name in enumerate(sure[split]) if name == model.variant]
                    assert reading.order.groups.rows.tolist() == own

        female, fused = (next(model for model in models if model.variant == name) for name in ("female", "gender"))
        for model in (female, fused):
            run_stage("evaluate", evaluate, model.run, model.config, model.fingerprints["evaluate"])
    own = sure["test"].count("female")
    found = storage.read_json(storage.join(female.run, "evaluate", "metrics.json"))
    counts = {"labelled": 0, "predicted": 9 - sure["test"].count(None), "unknown": sure["test"].count(None)}
    assert found["genders"] == counts | {"selected_by_prediction": own}
    assert {row["n"] for row in found["table4"]} == {own}
    assert found["gender_classifier"] is None  # its accuracy needs labels
    assert found["table5"][0]["n"] == counts["predicted"]
    num_faces = 2 * min(sure["train"].count(sex) for sex in schema.GENDERS)
    assert f"the sex of {num_faces} of these faces is predicted" in found["judge"]
    everyone = storage.read_json(storage.join(fused.run, "evaluate", "metrics.json"))
    assert everyone["genders"] == counts | {"selected_by_prediction": 0}
    # The gender prior alone, which is neutral where the prediction is not sure.
    by_gender = next(row for row in everyone["table4"] if row["model"] == "gender-prior-only")
    answers = np.stack([means[name or "neutral"].numpy() for name in sure["test"]])
    l2 = np.linalg.norm(answers - told["test"][schema.FACE_FEATURE], axis=1).mean()
    assert by_gender["l2"] == pytest.approx(l2, rel=1e-4)


def test_settings_of_gender_are_those_of_the_priors(unlabelled: tuple[str, Any], heard: Trained) -> None:
    """The decoder does not read them, so its configuration may be older than the weights that were set since."""
    run, _ = unlabelled
    finish(run, "prior", with_weights(heard), figures={"priors": {"neutral": {}, "female": {}, "male": {}}})
    for stage in ("gender", "oracle"):
        finish(run, stage)
    models, missing = plan(run, ["female"], 1)
    assert missing == []
    assert models[0].config.gender.weights == heard.run
    assert stages.finished_config(run, "decoder").gender.weights == ""
