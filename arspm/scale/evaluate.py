"""Table 4, the gender judge and the pictures, on the test split."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from arspm import corpus, schema, stages, storage
from arspm.config import Config
from arspm.learning import artifacts
from arspm.learning.evaluation import fit_judge, judged, other_speakers, table4_row
from arspm.learning.prior import choose_rows
from arspm.media.faces import decode_jpeg, encode_jpeg
from arspm.scale import infer

METRICS = "metrics.json"
JUDGE_FACES = 5000  # training faces that the judge learns from, at most


def evaluate(config: Config, run: str, fingerprint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure the trained model and the trivial rows on the test split."""
    table, files = infer.predict(config, run)
    columns = {
        field.name: schema.tensors(table[field.name], schema.tensor_type(field))
        for field in table.schema
        if field.metadata
    }
    speakers = np.array(corpus.speakers(table))
    priors = {name: mean.numpy() for name, mean in artifacts.load_priors(run).items()}
    prior_portraits = _portrait_features(run, config, priors)
    heard = table[infer.HEARD_GENDER].to_numpy()
    rows = _table4(config, columns, speakers, heard, priors, prior_portraits)
    found: dict[str, Any] = {"split": "test", "n": len(table), "table4": rows}
    found |= _judge(config, run, table, columns, speakers)
    found |= {"portraits": _pictures(config, run, table, columns, files)}
    files[f"evaluate/{METRICS}"] = storage.write_json(storage.join(run, "evaluate", METRICS), found)
    model = rows[0]
    return files, {name: model[name] for name in ("l1", "l2", "cos_degrees", "n")}


def model_name(config: Config) -> str:
    """The paper's name of a variant: its prior, and +fc where the prior goes through Fc2."""
    if config.prior.kind == "none":
        return "non-prior"
    fused = config.speech_encoder.fusion == "fc" and config.speech_encoder.head == "fc2"
    return config.prior.kind + ("+fc" if fused else "")


def _table4(
    config: Config,
    columns: dict[str, np.ndarray],
    speakers: np.ndarray,
    heard: np.ndarray,
    priors: dict[str, np.ndarray],
    prior_portraits: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    truth = columns[schema.FACE_FEATURE]
    others = other_speakers(speakers, config.seed)
    shuffled: tuple[Any, Any] = (None, None)
    if others is not None:
        shuffled = (columns[infer.SPEECH_FEATURE][others], columns[infer.PORTRAIT_FEATURE][others])
    everyone = np.zeros(len(truth), np.int64)
    heard_prior: tuple[Any, Any] = (None, None)
    if set(schema.GENDERS) <= set(priors) and (heard >= 0).all():
        by_sex = [np.stack([means[sex] for sex in schema.GENDERS]) for means in (priors, prior_portraits)]
        heard_prior = (by_sex[0][heard], by_sex[1][heard])
    features: dict[str, tuple[Any, Any]] = {
        model_name(config): (columns[infer.SPEECH_FEATURE], columns[infer.PORTRAIT_FEATURE]),
        "prior-only": (priors["neutral"][None][everyone], prior_portraits["neutral"][None][everyone]),
        "gender-prior-only": heard_prior,
        "shuffled-speech": shuffled,
        "face-to-face": (None, columns[infer.FACE_TO_FACE_FEATURE]),
    }
    return [
        table4_row(
            name,
            truth,
            speakers,
            feature=feature,
            portrait=portrait,
            num_resamples=config.evaluate.num_resamples,
            seed=config.seed,
        )
        for name, (feature, portrait) in features.items()
    ]


@torch.no_grad()
def _portrait_features(run: str, config: Config, priors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """VGGFace's features of each prior's portrait."""
    decoder, network = artifacts.load_face_decoder(run, config), artifacts.load_vggface(run, config)
    portraits = decoder(torch.from_numpy(np.stack(list(priors.values()))))
    return dict(zip(priors, network.features(portraits).numpy(), strict=True))


def _judge(
    config: Config, run: str, table: pa.Table, columns: dict[str, np.ndarray], speakers: np.ndarray
) -> dict[str, Any]:
    """Table 5 by a judge trained on the labelled training faces; None without labels of both sexes."""
    train = corpus.open_split(stages.corpus(run), "train")
    labels = corpus.read_columns(train, "faces", (schema.GENDER,))[schema.GENDER].to_pylist()
    test = np.array([schema.GENDERS.index(label) if label else -1 for label in table[schema.GENDER].to_pylist()])
    chosen = choose_rows(labels, JUDGE_FACES, config.seed)["neutral"]
    if not chosen.balanced or (test < 0).all():
        return {"judge": None, "table5": None}
    found = corpus.read_rows(train, {"features": (schema.FACE_FEATURE,)}, chosen.rows)
    classes = np.array([schema.GENDERS.index(labels[row]) for row in chosen.rows])
    judge = fit_judge(found[schema.FACE_FEATURE].astype(np.float32), classes)
    named = test >= 0
    pictures = {
        "real": columns[schema.FACE_FEATURE],
        "face-to-face": columns[infer.FACE_TO_FACE_FEATURE],
        model_name(config): columns[infer.PORTRAIT_FEATURE],
    }
    rows = judged(
        judge,
        {name: values[named] for name, values in pictures.items()},
        test[named],
        speakers[named],
        num_resamples=config.evaluate.num_resamples,
        seed=config.seed,
    )
    judge_name = f"logistic regression on VGGFace features of {len(classes)} training faces"
    return {"judge": judge_name, "table5": rows}


@torch.no_grad()
def _pictures(
    config: Config, run: str, table: pa.Table, columns: dict[str, np.ndarray], files: dict[str, Any]
) -> list[dict[str, Any]]:
    """Real face, Face-to-Face and portrait of one clip of each of the first test speakers, as JPEG files."""
    split = corpus.open_split(stages.corpus(run), "test")
    videos = table[schema.VIDEO_ID].to_pylist()
    rows = np.array([videos.index(video) for video in dict.fromkeys(videos)][: config.evaluate.num_portraits])
    decoder = artifacts.load_face_decoder(run, config)
    real = corpus.read_rows(split, {"faces": (schema.FACE_JPEG,)}, rows)[schema.FACE_JPEG].to_pylist()
    drawn = {
        "face_to_face": decoder(torch.from_numpy(columns[schema.FACE_FEATURE][rows])),
        "portrait": decoder(torch.from_numpy(columns[infer.SPEECH_FEATURE][rows])),
    }
    shown = []
    for number, row in enumerate(rows):
        size = drawn["portrait"].shape[-1]
        pictures = {"real": decode_jpeg(real[number], size)}
        for name, images in drawn.items():
            pictures[name] = (images[number] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
        entry: dict[str, Any] = {"clip_id": table[schema.CLIP_ID][int(row)].as_py()}
        for name, picture in pictures.items():
            path = f"evaluate/pictures/{number:03d}-{name}.jpg"
            files[path] = storage.write_bytes(storage.join(run, path), encode_jpeg(picture))
            entry[name] = path
        shown.append(entry)
    return shown
