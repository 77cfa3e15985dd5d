"""The paper's tables, and what they leave out, on the test split: measured by `learning`, gathered here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from arspm import storage
from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.distributed.data import infer, oracle
from arspm.evaluation import craniofacial, judges, metrics, probes, retrieval, table4
from arspm.evaluation.judges import Pictures
from arspm.media.faces import decode_jpeg, encode_jpeg
from arspm.runs import stages
from arspm.training import artifacts
from arspm.training.prior import choose_rows

METRICS = "metrics.json"
CLIPS = "clips.parquet"  # each test clip's distances, for comparing models on the same clips
MAX_QUERIES = 1000  # clips that look for their speaker among all: of more, so many are drawn with the seed
TRAINING_FACES = 5000  # that the judge and the probes learn from, at most

REAL, FACE_TO_FACE = "real", "face-to-face"


class Test(NamedTuple):
    """The test split as the model sees it, a row a clip."""

    table: pa.Table  # of `infer.predict`
    columns: dict[str, np.ndarray]  # its tensors
    speakers: np.ndarray
    genders: np.ndarray  # the labels' classes, -1 where nobody gave one
    own: np.ndarray  # the rows that Table 4 is about: all, or those of the prior's sex


class Networks(NamedTuple):
    """What draws and looks at features that are not a clip's."""

    decoder: torch.nn.Module
    vggface: Any

    @torch.no_grad()
    def draw(self, features: np.ndarray) -> torch.Tensor:
        return self.decoder(torch.from_numpy(np.ascontiguousarray(features, np.float32)))

    @torch.no_grad()
    def redrawn(self, features: np.ndarray) -> np.ndarray:
        """VGGFace's features of the decoder's pictures of features."""
        return self.vggface.features(self.draw(features)).numpy()


def evaluate(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the trained model, the trivial rows and, for made-up speakers, the oracle on the test split."""
    table, files = infer.predict(config, run)
    test = _test(config, table)
    networks = Networks(artifacts.load_face_decoder(run, config), artifacts.load_vggface(run, config))
    chance: dict[str, Any] = {"num_resamples": config.evaluate.num_resamples, "seed": config.seed}
    name = model_name(config)
    best = _oracle(config, run, test)
    rows, distances = _table4(config, run, test, networks, best, chance)
    found: dict[str, Any] = {
        "split": "test",
        "model": name,
        "n": len(table),
        "n_speakers": len(set(test.speakers)),
        "table4": rows,
        "oracle": oracle_figures(run) if best is not None else None,
    }
    pictures = _pictures_of(test, run, name)
    found["gender_classifier"] = _gender_classifier(run, test, chance)
    found |= _judged(config, run, test, pictures, chance)
    found |= {
        "retrieval": _retrieval(test, chance),
        "similarity": {
            kind: table4.similarity(test.columns[column], test.speakers, **chance)
            for kind, column in (
                (REAL, schema.FACE_FEATURE),
                ("speech", schema.SPEECH_FEATURE),
                ("portrait", schema.PORTRAIT_FEATURE),
            )
        },
        "speech_length": _speech_length(test, chance),
        "probes": _probes(config, run, test, pictures, chance),
        "craniofacial": _craniofacial(config, test, pictures, chance),
        "prior_pictures": _prior_pictures(run, networks, files),
        "portraits": _portraits(config, run, test, networks, files),
    }
    files[f"evaluate/{CLIPS}"] = tables.write_table(storage.join(run, "evaluate", CLIPS), distances, len(distances))
    files[f"evaluate/{METRICS}"] = storage.write_json(storage.join(run, "evaluate", METRICS), found)
    return files, {figure: rows[0][figure] for figure in ("l1", "l2", "cos_degrees", "n")}


def model_name(config: Config) -> str:
    """The paper's name of a variant: its prior, and +fc where the prior goes through Fc2; then what else is other."""
    architecture = config.speech_encoder.architecture
    if architecture == "speech2face":
        return architecture
    fused = config.speech_encoder.fusion == "fc" and config.speech_encoder.head == "fc2"
    name = "non-prior" if config.prior.kind == "none" else config.prior.kind + ("+fc" if fused else "")
    return name if architecture == "arspm" else f"{name}, {architecture}"


def oracle_figures(run: str) -> dict[str, Any] | None:
    """What the oracle's stage says of itself."""
    done = stages.success(run, "oracle")
    return None if done is None else done.figures


def _test(config: Config, table: pa.Table) -> Test:
    columns = {
        field.name: schema.tensors(table[field.name], schema.tensor_type(field))
        for field in table.schema
        if field.metadata
    }
    genders = _classes(table[schema.GENDER].to_pylist())
    own = np.ones(len(table), bool)
    if config.prior.kind in schema.GENDERS:  # a model of one sex is measured on that sex, as it was trained
        own = genders == schema.GENDERS.index(config.prior.kind)
        if not own.any():
            raise ValueError(f"prior.kind={config.prior.kind}: the test split has no clip of that sex")
    return Test(table, columns, np.array(tables.speakers(table)), genders, own)


def _classes(labels: list[str | None]) -> np.ndarray:
    return np.array([schema.GENDERS.index(label) if label else -1 for label in labels])


def _oracle(config: Config, run: str, test: Test) -> np.ndarray | None:
    """The oracle's feature of each row, or None for speakers whom nobody made up."""
    features = oracle.oracle_features(run)
    if features is None:
        return None
    return np.stack([features[video] for video in test.table[schema.VIDEO_ID].to_pylist()])


def _table4(
    config: Config, run: str, test: Test, networks: Networks, best: np.ndarray | None, chance: dict[str, Any]
) -> tuple[list[dict[str, Any]], pa.Table]:
    """Table 4's rows over the model's own clips, the model first, and the model's distances clip by clip."""
    own, name = test.own, model_name(config)
    truth, speakers = test.columns[schema.FACE_FEATURE][own], test.speakers[own]
    rows: list[dict[str, Any]] = []
    distances = {}
    for model, (feature, portrait) in _answers(config, run, test, networks, best).items():
        rows.append(
            table4.table4_row(model, truth, speakers, feature=feature, portrait=portrait, **chance)
            | {"cos_degrees_learnt_share": None, "cos_degrees_learnt_share_interval": None}
        )
        distances[model] = table4.distances(truth, feature, portrait)
    if best is not None:
        mine, everyones, possible = (distances[each]["cos_degrees"] for each in (name, "prior-only", "oracle"))
        share, interval = table4.learnt_share(mine, everyones, possible, speakers, **chance)
        rows[0] |= {"cos_degrees_learnt_share": share, "cos_degrees_learnt_share_interval": interval}
    ids = test.table[schema.CLIP_ID].combine_chunks().filter(pa.array(own))
    return rows, pa.table({schema.CLIP_ID: ids, schema.SPEAKER: pa.array(speakers), **distances[name]})


def _answers(
    config: Config, run: str, test: Test, networks: Networks, best: np.ndarray | None
) -> dict[str, tuple[np.ndarray | None, np.ndarray | None]]:
    """Who says what of the model's own clips: name -> face features, and VGGFace's features of their portraits."""
    columns, own = test.columns, test.own
    priors = {name: mean.numpy() for name, mean in artifacts.load_priors(run).items()}
    drawn = dict(zip(priors, networks.redrawn(np.stack(list(priors.values()))), strict=True))
    heard = test.table[schema.HEARD_GENDER].to_numpy()[own]
    speech, portrait = columns[schema.SPEECH_FEATURE][own], columns[schema.PORTRAIT_FEATURE][own]
    others = table4.other_speakers(test.speakers[own], config.seed)
    neutral = np.zeros(len(heard), np.int64)
    found: dict[str, tuple[np.ndarray | None, np.ndarray | None]] = {
        model_name(config): (speech, portrait),
        "prior-only": (priors["neutral"][None][neutral], drawn["neutral"][None][neutral]),
        "gender-prior-only": (None, None),
        "shuffled-speech": (None, None) if others is None else (speech[others], portrait[others]),
        "face-to-face": (None, columns[schema.FACE_TO_FACE_FEATURE][own]),
    }
    if set(schema.GENDERS) <= set(priors) and (heard >= 0).all():
        means, pictures = (np.stack([of[sex] for sex in schema.GENDERS])[heard] for of in (priors, drawn))
        found["gender-prior-only"] = means, pictures
    if best is not None:
        videos = test.table[schema.VIDEO_ID].to_numpy(zero_copy_only=False)
        _, first, inverse = np.unique(videos, return_index=True, return_inverse=True)
        found["oracle"] = best[own], networks.redrawn(best[first])[inverse][own]
    return found


def _gender_classifier(run: str, test: Test, chance: dict[str, Any]) -> dict[str, Any] | None:
    """The accuracy of the network that hears a sex, by split; None without one, or without labels to hold it to."""
    done, known = stages.success(run, "gender"), test.genders >= 0
    heard = test.table[schema.HEARD_GENDER].to_numpy()
    if done is None or (heard < 0).all() or not known.any():
        return None
    right = (heard == test.genders)[known].astype(float)
    mean, interval = metrics.mean_and_interval(right, test.speakers[known], **chance)
    splits = {split: done.figures.get(f"{split}_accuracy") for split in ("train", "val")}
    return {**splits, "test": mean, "test_interval": interval, "n": len(right)}


def _pictures_of(test: Test, run: str, name: str) -> list[Pictures]:
    """The test split's real faces, what the decoder makes of them, and the portraits."""
    split = tables.open_split(stages.corpus(run), "test")
    ids = test.table[schema.CLIP_ID].to_pylist()
    faces = tables.read_columns(split, "faces", (schema.FACE_JPEG,))[schema.FACE_JPEG].to_pylist()
    drawn = {column: test.table[column].to_pylist() for column in (schema.FACE_TO_FACE_JPEG, schema.PORTRAIT_JPEG)}
    return [
        Pictures(REAL, ids, test.columns[schema.FACE_FEATURE], faces),
        Pictures(FACE_TO_FACE, ids, test.columns[schema.FACE_TO_FACE_FEATURE], drawn[schema.FACE_TO_FACE_JPEG]),
        Pictures(name, ids, test.columns[schema.PORTRAIT_FEATURE], drawn[schema.PORTRAIT_JPEG]),
    ]


def _training_faces(config: Config, run: str) -> dict[str, Any]:
    """Features and labels of training faces, the sexes in turn where they are labelled."""
    train = tables.open_split(stages.corpus(run), "train")
    labels = tables.read_columns(train, "faces", (schema.GENDER,))[schema.GENDER].to_pylist()
    rows = choose_rows(labels, TRAINING_FACES, config.seed)["neutral"].rows
    wanted = {"features": (schema.FACE_FEATURE,), "faces": (schema.VIDEO_ID, schema.GENDER, schema.AGE)}
    found = tables.read_rows(train, wanted, rows)
    return found | {schema.FACE_FEATURE: found[schema.FACE_FEATURE].astype(np.float32)}


def _judged(config: Config, run: str, test: Test, pictures: list[Pictures], chance: dict[str, Any]) -> dict[str, Any]:
    """Tables 5 and 6, or None where there is no judge or nothing to judge by."""
    setting = config.evaluate.judge
    with ExitStack() as stack:
        if setting != "classifier":
            setting = str(stack.enter_context(storage.local_copy(setting)))
        known = _training_faces(config, run) if setting == "classifier" else {}
        judge = judges.make_judge(
            setting,
            features=known.get(schema.FACE_FEATURE),
            genders=_classes(known[schema.GENDER].to_pylist()) if known else None,
            ages=_ages(known[schema.AGE].to_pylist()) if known else None,
        )
        if judge is None:
            return {"judge": None, "table5": None, "table6": None}
        judged = {each.name: judge(each) for each in pictures}
        description = judge.description  # once it has judged: it may say what it could not
    ages = _ages(test.table[schema.AGE].to_pylist())
    return {
        "judge": description,
        "table5": judges.table5(judged, test.genders, test.speakers, **chance),
        "table6": judges.table6(judged, ages, test.speakers, **chance),
    }


def _ages(labels: list[float | None]) -> np.ndarray:
    """Years, NaN where nobody gave them."""
    return np.array([np.nan if label is None else label for label in labels], float)


def _retrieval(test: Test, chance: dict[str, Any]) -> list[dict[str, Any]]:
    """Clips' speech against one face of each speaker, that of the speaker's first clip."""
    _, first, truth = np.unique(test.speakers, return_index=True, return_inverse=True)
    gallery = test.columns[schema.FACE_FEATURE][first]
    rows = np.arange(len(truth))
    if len(rows) > MAX_QUERIES:
        rows = np.sort(np.random.default_rng(chance["seed"]).choice(rows, MAX_QUERIES, replace=False))
    queries = test.columns[schema.SPEECH_FEATURE][rows]
    return retrieval.retrieval(queries, gallery, truth[rows], test.speakers[rows], **chance)


def _speech_length(test: Test, chance: dict[str, Any]) -> list[dict[str, Any]]:
    truth, speakers = test.columns[schema.FACE_FEATURE][test.own], test.speakers[test.own]
    lengths = {seconds: infer.shorter_feature(seconds) for seconds in infer.SHORTER_SECONDS}
    lengths[schema.SPEECH_SECONDS] = schema.SPEECH_FEATURE
    rows = []
    for seconds, column in lengths.items():
        feature = test.columns[column][test.own]
        row = table4.table4_row("", truth, speakers, feature=feature, portrait=None, **chance)
        wanted = {key: value for key, value in row.items() if not key.startswith("portrait") and key != "model"}
        rows.append({"seconds": seconds, **wanted})
    return rows


def _probes(
    config: Config, run: str, test: Test, pictures: list[Pictures], chance: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """What can be read off the pictures, for made-up speakers whose causes are known."""
    if not config.oracle.speakers:
        return None
    known = _training_faces(config, run)
    return probes.probes(
        known[schema.FACE_FEATURE],
        oracle.true_causes(config.oracle.speakers, known[schema.VIDEO_ID].to_pylist()),
        {each.name: each.features for each in pictures},
        oracle.true_causes(config.oracle.speakers, test.table[schema.VIDEO_ID].to_pylist()),
        test.speakers,
        **chance,
    )


def _craniofacial(config: Config, test: Test, pictures: list[Pictures], chance: dict[str, Any]) -> dict[str, Any]:
    """How measures of the face go together in real faces and portraits, by a detector that gives landmarks."""
    detector = config.evaluate.landmarks or (config.face.detector if config.face.detector.endswith(".onnx") else "")
    if not detector:
        return {"reason": "dlib's HOG gives no landmarks; evaluate.landmarks names a YuNet file that does"}
    with storage.local_copy(detector) as path:
        real, portrait = (craniofacial.landmarks(pictures[place].jpegs, str(path)) for place in (0, -1))
    found = {
        name: float(1 - np.isnan(points).any(axis=(1, 2)).mean())
        for name, points in ((REAL, real), ("portrait", portrait))
    }
    return {"rows": craniofacial.correlations(real, portrait, test.speakers, **chance), "found": found}


def _prior_pictures(run: str, networks: Networks, files: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Figure 2: what the decoder makes of the mean of n faces."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, by_count in artifacts.load_priors_by_count(run).items():
        jpegs = infer.pictures(networks.draw(np.stack([mean.numpy() for mean in by_count.values()])))
        for count, jpeg in zip(by_count, jpegs, strict=True):
            path = f"evaluate/pictures/prior-{name}-{count}.jpg"
            files[path] = storage.write_bytes(storage.join(run, path), jpeg)
            found.setdefault(name, []).append({"n": count, "picture": path})
    return found


def _portraits(config: Config, run: str, test: Test, networks: Networks, files: dict[str, Any]) -> list[dict[str, Any]]:
    """Real face, Face-to-Face and portrait of one clip of each of the first test speakers, as JPEG files."""
    split = tables.open_split(stages.corpus(run), "test")
    videos = test.table[schema.VIDEO_ID].to_pylist()
    rows = np.array([videos.index(video) for video in dict.fromkeys(videos)][: config.evaluate.num_portraits])
    real = tables.read_rows(split, {"faces": (schema.FACE_JPEG,)}, rows)[schema.FACE_JPEG].to_pylist()
    size = networks.draw(test.columns[schema.FACE_FEATURE][rows[:1]]).shape[-1]
    shown = []
    for number, row in enumerate(rows.tolist()):
        pictures: Mapping[str, bytes] = {
            "real": encode_jpeg(decode_jpeg(real[number], size)),
            "face_to_face": test.table[schema.FACE_TO_FACE_JPEG][row].as_py(),
            "portrait": test.table[schema.PORTRAIT_JPEG][row].as_py(),
        }
        entry: dict[str, Any] = {"clip_id": test.table[schema.CLIP_ID][row].as_py()}
        for name, jpeg in pictures.items():
            path = f"evaluate/pictures/{number:03d}-{name}.jpg"
            files[path] = storage.write_bytes(storage.join(run, path), jpeg)
            entry[name] = path
        shown.append(entry)
    return shown
