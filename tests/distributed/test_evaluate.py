"""The measures of evaluate, compared with the same figures computed naively from the networks and the corpus.

The actors run in this process instead of in Ray. Everything else is as in the stage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.spatial import distance

from arspm import storage
from arspm.config import override
from arspm.config.presets import preset
from arspm.config.variants import VARIANTS
from arspm.corpus import schema
from arspm.distributed import evaluate, local, measures
from arspm.distributed.data.oracle import ORACLE
from arspm.distributed.predictions import model_name
from arspm.evaluation import recognition, table4
from arspm.evaluation.judges import fit_judge
from arspm.media.audio import from_int16, spectrogram
from arspm.media.jpeg import decode_jpeg
from arspm.model import speech_portrait
from arspm.report import run_page
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from tests.evaluation.test_onnx_faces import write_model

SEED = 3
CONFIG = override(
    preset("smoke"),
    {"data.storage": "waveform", "seed": SEED, "prior.kind": "gender", "prior.num_faces": 10}
    | {"evaluate.num_resamples": 50, "evaluate.num_portraits": 2, "evaluate.batch_size": 4},
)
FIGURES = ("l1", "l2", "cos_degrees")


class Run(NamedTuple):
    """A run with everything that evaluate reads, its splits as plain values, and its networks."""

    uri: str
    columns: dict[str, dict[str, Any]]  # split -> column -> values
    priors: dict[str, torch.Tensor]
    oracle: dict[str, np.ndarray]
    networks: dict[str, torch.nn.Module]

    @property
    def test(self) -> dict[str, Any]:
        return self.columns["test"]

    def speech(self, seconds: int = 6) -> torch.Tensor:
        heard = self.test[schema.WAVEFORM][:, : seconds * schema.SAMPLE_RATE_HZ]
        return spectrogram(from_int16(torch.from_numpy(heard)))

    @torch.no_grad()
    def heard(self, seconds: int = 6) -> np.ndarray:
        return self.networks["gender"](self.speech(seconds)).argmax(dim=1).numpy()

    @torch.no_grad()
    def feature(self, kind: str, seconds: int = 6) -> np.ndarray:
        means = torch.stack([self.priors[sex] for sex in schema.GENDERS])
        prior = means[self.heard(seconds)] if kind == "gender" else self.priors[kind]
        return self.networks["encoder"](self.speech(seconds), prior).numpy()

    @torch.no_grad()
    def redrawn(self, features: np.ndarray) -> np.ndarray:
        """Return VGGFace's features of the decoder's portraits."""
        return self.networks["vggface"].features(self.networks["decoder"](torch.from_numpy(features))).numpy()


@pytest.fixture
def run(write_corpus: Callable[..., Any], tmp_path: Path) -> Iterator[Run]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    _, values = write_corpus({"train": (12,), "val": (4,), "test": (6, 5)}, feature_dim=64)
    networks = {
        "vggface": speech_portrait.vggface(CONFIG, 5),
        "gender": speech_portrait.gender_classifier(CONFIG),
        "decoder": speech_portrait.face_decoder(CONFIG),
        "encoder": speech_portrait.speech_encoder(CONFIG),
    }
    torch.nn.init.normal_(networks["decoder"].conv1.weight, std=6.0)  # different features give different colours
    priors = {name: torch.randn(64) for name in ("neutral", *schema.GENDERS)}
    videos = dict.fromkeys(values["test"][schema.VIDEO_ID])
    first = {video: values["test"][schema.VIDEO_ID].index(video) for video in videos}
    oracle = {  # closer than any prior
        video: (values["test"][schema.FACE_FEATURE][row] + 2 * rng.standard_normal(64)).astype(np.float32)
        for video, row in first.items()
    }
    made = Run(str(tmp_path), values, priors, oracle, {name: model.eval() for name, model in networks.items()})
    with torch.no_grad():  # make the classifier predict both sexes
        logits = networks["gender"](made.speech())
        ordered = (logits[:, 0] - logits[:, 1]).sort().values
        networks["gender"].fc2.bias[1] += ordered[4:6].mean()
        networks["gender"].fc2.weight *= 100  # with a clear margin
        networks["gender"].fc2.bias *= 100
    for name, model in networks.items():
        (tmp_path / name).mkdir()
        checkpoint.write_weights(tmp_path / name / artifacts.MODEL, model.state_dict())
    (tmp_path / "prior").mkdir()
    checkpoint.write_weights(tmp_path / "prior" / artifacts.PRIORS, priors)
    checkpoint.write_weights(tmp_path / "prior" / artifacts.PRIORS_BY_COUNT, {"neutral/10": priors["neutral"]})
    (tmp_path / "oracle").mkdir()
    columns = [pa.array(list(oracle)), schema.tensor_column(np.stack(list(oracle.values())))]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema.oracle_schema(64)), tmp_path / "oracle" / ORACLE)
    for stage, figures in (("gender", {"train_accuracy": 0.9, "val_accuracy": 0.8}), ("oracle", {"num_draws": 4})):
        stages.commit(str(tmp_path), stage, fingerprint="f" * 64, config=CONFIG, files={}, seconds=1.0, figures=figures)

    with local.in_process():
        yield made


def naive(found: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    pairs = [(a, b) for a, b in zip(found.astype(float), truth.astype(float), strict=True)]
    return {
        "l1": np.array([distance.cityblock(*pair) for pair in pairs]),
        "l2": np.array([distance.euclidean(*pair) for pair in pairs]),
        "cos_degrees": np.array([math.degrees(math.acos(1 - distance.cosine(*pair))) for pair in pairs]),
    }


def check_row(row: dict[str, Any], truth: np.ndarray, feature: np.ndarray | None, portrait: np.ndarray | None) -> None:
    assert row["n"] == len(truth)
    for prefix, values in (("", feature), ("portrait_", portrait)):
        for figure in FIGURES:
            if values is None:
                assert row[prefix + figure] is None
            else:
                assert row[prefix + figure] == pytest.approx(naive(values, truth)[figure].mean(), rel=1e-4), figure


@pytest.mark.parametrize("kind", ["gender", "female"])
def test_table_4_has_the_distances_of_each_rows_answers(run: Run, kind: str) -> None:
    """A model of one sex, and every other row, is measured on the clips of that sex (section 4.3.2)."""
    config = override(CONFIG, {"prior.kind": kind})
    files, figures = evaluate.evaluate(config, run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))
    own = np.array([kind == "gender" or sex == kind for sex in run.test[schema.GENDER]])
    assert own.sum() == (11 if kind == "gender" else 4)
    name = "gender+fc" if kind == "gender" else "female+fc"
    truth, everyone = run.test[schema.FACE_FEATURE], np.ones((11, 1), np.float32)
    speech, speakers = run.feature(kind), np.array(run.test[schema.IDENTITY])
    by_sex = torch.stack([run.priors[sex] for sex in schema.GENDERS]).numpy()[run.heard()]
    neutral = everyone * run.priors["neutral"].numpy()
    best = np.stack([run.oracle[video] for video in run.test[schema.VIDEO_ID]])
    expected: dict[str, tuple[np.ndarray | None, np.ndarray]] = {
        name: (speech, run.redrawn(speech)),
        "prior-only": (neutral, run.redrawn(neutral)),
        "gender-prior-only": (by_sex, run.redrawn(by_sex)),
        "face-to-face": (None, run.redrawn(truth)),
        "oracle": (best, run.redrawn(best)),
    }
    assert set(run.heard()) == {0, 1}
    rows = {row["model"]: row for row in found["table4"]}
    assert found["table4"][0]["model"] == found["model"] == name
    assert set(rows) == {*expected, "shuffled-speech"}
    for model, (feature, portrait) in expected.items():
        check_row(rows[model], truth[own], None if feature is None else feature[own], portrait[own])
    others = table4.other_speakers(speakers[own], SEED)
    shuffled = speech[own][others]
    check_row(rows["shuffled-speech"], truth[own], shuffled, run.redrawn(shuffled))
    mine, everyones, possible = (
        naive(feature[own], truth[own])["cos_degrees"].mean() for feature in (speech, neutral, best)
    )
    assert possible < everyones
    share = (everyones - mine) / (everyones - possible)
    assert rows[name]["cos_degrees_learnt_share"] == pytest.approx(share, rel=1e-3)
    assert figures["cos_degrees"] == rows[name]["cos_degrees"]
    clips = pq.read_table(f"{run.uri}/evaluate/{evaluate.CLIPS}")
    assert clips[schema.CLIP_ID].to_pylist() == np.array(run.test[schema.CLIP_ID])[own].tolist()
    np.testing.assert_allclose(clips["portrait_l2"], naive(run.redrawn(speech), truth)["l2"][own], rtol=1e-4)
    assert files == {path: storage.describe(f"{run.uri}/{path}") for path in files}

    lengths = {row["seconds"]: row for row in found["speech_length"]}
    assert list(lengths) == [1, 3, 6]
    for seconds, row in lengths.items():  # the sex is predicted from the shorter speech too
        assert row["n"] == own.sum()
        angle = naive(run.feature(kind, seconds), truth)["cos_degrees"][own].mean()
        assert row["cos_degrees"] == pytest.approx(angle, rel=1e-4)
    assert lengths[6]["l2"] == rows[name]["l2"]


def test_the_measures_beside_table_4(run: Run) -> None:
    evaluate.evaluate(CONFIG, run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))
    truth, speech = run.test[schema.FACE_FEATURE], run.feature("gender")
    speakers, videos = np.array(run.test[schema.IDENTITY]), run.test[schema.VIDEO_ID]

    first = [videos.index(video) for video in dict.fromkeys(videos)]  # one face per speaker: the first clip's
    assert {row["gallery"] for row in found["retrieval"]} == {6}
    for metric, name in (("cosine", "cosine"), ("cityblock", "l1"), ("euclidean", "l2")):
        (row,) = (row for row in found["retrieval"] if row["distance"] == name)
        order = distance.cdist(speech.astype(float), truth[first].astype(float), metric).argsort(axis=1)
        own = np.array([first.index(videos.index(video)) for video in videos])
        for recall in (1, 2, 5):
            hits = (order[:, :recall] == own[:, None]).any(axis=1)
            assert row[f"r{recall}"] == pytest.approx(hits.mean()), (name, recall)

    sexes = np.array([schema.GENDERS.index(sex) if sex else -1 for sex in run.test[schema.GENDER]])
    heard = found["gender_classifier"]
    assert heard["test"] == pytest.approx((run.heard() == sexes)[sexes >= 0].mean())
    assert (heard["train"], heard["val"], heard["n"]) == (0.9, 0.8, (sexes >= 0).sum())

    seen = {"real": truth, "face-to-face": run.redrawn(truth), "gender+fc": run.redrawn(speech)}
    train = run.columns["train"]
    rows = [row for row, sex in enumerate(train[schema.GENDER]) if sex]
    assert len(rows) == 8  # as many women as men, so all of them are used
    labels = np.array([schema.GENDERS.index(train[schema.GENDER][row]) for row in rows])
    judge = fit_judge(train[schema.FACE_FEATURE][rows], labels)
    assert [row["pictures"] for row in found["table5"]] == list(seen)
    for row in found["table5"]:
        right = judge.predict(seen[row["pictures"]]) == sexes
        assert row["accuracy"] == pytest.approx(right[sexes >= 0].mean()), row["pictures"]

    likeness = {"real": truth, "speech": speech, "portrait": seen["gender+fc"]}
    for kind, features in likeness.items():
        unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
        other = speakers[:, None] != speakers
        assert found["similarity"][kind]["between_cosine"] == pytest.approx((unit @ unit.T)[other].mean(), abs=1e-4)


def mean_unit(features: np.ndarray) -> np.ndarray:
    return np.mean([each / np.linalg.norm(each) for each in features.astype(float)], axis=0)


def test_portraits_are_compared_with_their_speakers_mean_as_other_work_does(run: Run) -> None:
    evaluate.evaluate(CONFIG, run.uri, "f" * 64)
    (space,) = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))["recognition"]
    assert (space["space"], space["identities"]) == ("VGGFace", 5)
    truth, speech = run.test[schema.FACE_FEATURE], run.feature("gender")
    speakers = np.array(run.test[schema.IDENTITY])
    names = sorted(set(speakers))
    gallery = np.stack([mean_unit(truth[speakers == name]) for name in names])
    own = np.array([names.index(speaker) for speaker in speakers])
    priors = {name: run.redrawn(mean.numpy()[None])[0] for name, mean in run.priors.items()}
    portrait = run.redrawn(speech)
    portraits = {
        "gender+fc": portrait,
        "prior-only": np.stack([priors["neutral"]] * 11),
        "gender-prior-only": np.stack([priors[schema.GENDERS[sex]] for sex in run.heard()]),
        "shuffled-speech": portrait[table4.other_speakers(speakers, SEED)],
        "face-to-face": run.redrawn(truth),
    }
    rows = {row["model"]: row for row in space["rows"]}
    assert list(rows) == [*portraits, "random"]
    for name, features in portraits.items():
        cosines = 1 - distance.cdist(features.astype(float), gallery, "cosine")
        assert rows[name]["cosine"] == pytest.approx(cosines[np.arange(11), own].mean(), abs=1e-4), name
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        assert rows[name]["l2"] == pytest.approx(np.linalg.norm(unit - gallery[own], axis=1).mean(), abs=1e-4), name
        assert (rows[name]["n"], rows[name]["gallery"]) == (11, 6)
    nearest = (1 - distance.cdist(portrait.astype(float), gallery, "cosine")).argmax(axis=1)
    assert rows["gender+fc"]["r1"] == pytest.approx((nearest == own).mean())
    assert rows["random"]["r1"] == pytest.approx(1 / 6)
    first = [list(speakers).index(name) for name in names]
    with torch.no_grad():
        logits = run.networks["vggface"].identity_logits(torch.from_numpy(truth[first])).numpy()
    score, sd = recognition.vggface_score(logits, SEED)
    assert space["scores"][0] == {
        "pictures": "real",
        "n": 6,
        "score": pytest.approx(score),
        "score_sd": pytest.approx(sd),
    }


def write_colour_recognizer(folder: Path, alignment: str) -> str:
    """A recognizer whose embedding, and whose scores of identities, are the means of a picture's channels."""
    declared = {"size": 32, "channels": "rgb", "mean": [120, 120, 120], "std": [50, 50, 50], "alignment": alignment}
    path = write_model(
        folder / "colours.onnx", outputs=("colours", "red"), weights={"colours": np.eye(3), "red": np.eye(3)}
    )
    storage.write_json(f"{path}.json", declared | {"embedding": "colours", "logits": "red"})
    return str(path)


@pytest.mark.parametrize("crop", ["square", "aligned"])
def test_a_recognizer_adds_its_space(run: Run, tmp_path: Path, crop: str) -> None:
    uri = write_colour_recognizer(tmp_path, "crop")
    changes = {"evaluate.recognizer": uri, "face.detector": "yunet", "face.crop": crop}
    evaluate.evaluate(override(CONFIG, changes), run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))
    assert [space["space"] for space in found["recognition"]] == ["VGGFace", "colours.onnx"]
    space = found["recognition"][1]
    speakers = np.array(run.test[schema.IDENTITY])
    jpegs = run.test[schema.FACE_JPEG]
    real = np.stack([(decode_jpeg(jpeg, 224).mean(axis=(0, 1)) - 120) / 50 for jpeg in jpegs])
    with torch.no_grad():
        drawn = run.networks["decoder"](torch.from_numpy(run.feature("gender"))).numpy()
    portraits = (255 * drawn.mean(axis=(2, 3)) - 120) / 50
    truth = np.stack([mean_unit(real[speakers == name]) for name in speakers])
    cosines = [1 - distance.cosine(*pair) for pair in zip(portraits, truth, strict=True)]
    row = space["rows"][0]
    assert row["cosine"] == pytest.approx(np.mean(cosines), abs=0.02)  # JPEG
    assert (row["model"], row["gallery"], space["identities"]) == ("gender+fc", 6, 3)
    assert space["sha256"] == storage.describe(uri)["sha256"]
    assert space["input"]["size"] == 32
    assert [score["n"] for score in space["scores"]] == [6, 6, 6]


@pytest.mark.parametrize(
    ("changes", "about"),
    [
        ({}, "as if all had an average face's landmarks, because no detector of landmarks is configured"),
        ({"face.detector": "yunet", "face.crop": "aligned"}, "aligned by their landmarks (face.crop=aligned)"),
    ],
)
def test_the_alignment_of_a_recognizers_faces_is_stated(
    run: Run, tmp_path: Path, changes: dict[str, str], about: str
) -> None:
    uri = write_colour_recognizer(tmp_path, "arcface")
    evaluate.evaluate(override(CONFIG, changes | {"evaluate.recognizer": uri}), run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))
    assert about in found["recognition"][1]["about"]


def test_a_recognizer_without_its_declaration_is_refused(run: Run, tmp_path: Path) -> None:
    uri = write_colour_recognizer(tmp_path, "crop")
    Path(f"{uri}.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"colours\.onnx\.json is missing: it declares the size") as caught:
        evaluate.evaluate(override(CONFIG, {"evaluate.recognizer": uri}), run.uri, "f" * 64)
    assert "\n" not in str(caught.value)


def test_every_figure_is_on_the_page(run: Run) -> None:
    evaluate.evaluate(CONFIG, run.uri, "f" * 64)
    report = Path(run_page.__file__).parent
    shown = "".join(path.read_text() for pattern in ("*.j2", "*.py") for path in report.glob(pattern))
    figures = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json")).keys() - {"model", "split"}
    for key in figures:
        assert re.search(rf"""\bm\.{key}\b|(\bm\.get\(|metrics(\.get\(|\[))"{key}\"""", shown), (
            f"{key}: not in {report}"
        )


def test_each_picture_shows_what_its_entry_names(run: Run) -> None:
    """Figure 2: the decoder's portrait of a mean. Figures 4 and 6: real, Face-to-Face and portrait of the same clip."""
    evaluate.evaluate(CONFIG, run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))

    @torch.no_grad()
    def drawn(features: Any) -> np.ndarray:
        return 255 * run.networks["decoder"](torch.as_tensor(features)[None])[0].permute(1, 2, 0).numpy()

    def difference(path: str, expected: np.ndarray) -> float:
        """Return the mean difference between a picture and the expected one after JPEG compression."""
        jpeg = cv2.imencode(".jpg", expected[..., ::-1].round(), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        picture, other = cv2.imread(f"{run.uri}/{path}"), cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
        return float(np.abs(picture.astype(float) - other).mean())

    (entry,) = found["prior_pictures"]["neutral"]
    assert entry["n"] == 10
    assert difference(entry["picture"], drawn(run.priors["neutral"])) < 0.1
    speech = run.feature("gender")
    assert [entry["clip_id"] for entry in found["portraits"]] == [run.test[schema.CLIP_ID][row] for row in (0, 2)]
    for entry, row in zip(found["portraits"], (0, 2), strict=True):
        pictures = {"face_to_face": drawn(run.test[schema.FACE_FEATURE][row]), "portrait": drawn(speech[row])}
        real = cv2.imdecode(np.frombuffer(run.test[schema.FACE_JPEG][row], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        pictures["real"] = cv2.resize(real, (64, 64), interpolation=cv2.INTER_AREA)
        for kind, expected in pictures.items():
            apart = {other: difference(entry[other], expected) for other in pictures}
            assert apart.pop(kind) < (10 if kind == "real" else 0.1)  # noise that was resized differently
            assert min(apart.values()) > 1


def test_retrieval_uses_a_sample_of_many_clips(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MAX_QUERIES", 7)
    evaluate.evaluate(CONFIG, run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))
    assert {(row["n"], row["gallery"]) for row in found["retrieval"]} == {(7, 6)}


def test_only_the_first_clips_are_measured(run: Run) -> None:
    evaluate.evaluate(override(CONFIG, {"evaluate.num_clips": 9}), run.uri, "f" * 64)
    found = storage.read_json(storage.join(run.uri, "evaluate", "metrics.json"))
    assert found["n"] == 9 < len(run.test[schema.CLIP_ID])
    clips = pq.read_table(Path(run.uri, "evaluate", evaluate.CLIPS))[schema.CLIP_ID].to_pylist()
    assert clips == run.test[schema.CLIP_ID][:9]


def test_variants_have_the_names_of_table_4() -> None:
    names = {name: model_name(override(CONFIG, variant.changes)) for name, variant in VARIANTS.items()}
    assert {name for name, variant in VARIANTS.items() if variant.published} == {
        name for name, variant in VARIANTS.items() if variant.published and names[name] == name
    }
    assert (names["speech2face"], names["resnet18"]) == ("speech2face", "neutral+fc, resnet18")
