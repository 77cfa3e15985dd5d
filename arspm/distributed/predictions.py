"""The test split with the model's predictions, and the other arrays that evaluate's measures read."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from arspm.config import Config
from arspm.corpus import schema, tables
from arspm.corpus.genders import Genders, classes_of, read_genders
from arspm.distributed.data import oracle
from arspm.evaluation.judges import Pictures
from arspm.runs import stages
from arspm.training.prior import choose_rows

MAX_TRAINING_FACES = 5000  # that the judge and the probes are fitted to
REAL, FACE_TO_FACE = "real", "face-to-face"


class Predictions(NamedTuple):
    """The test split with the model's predictions, one row per clip."""

    table: pa.Table  # of `infer.predict`
    columns: dict[str, np.ndarray]  # its tensor columns
    speakers: np.ndarray
    labels: np.ndarray  # the classes of the labels of the sex, -1 if unlabelled
    genders: Genders  # by label or, where the run asks for it, by prediction
    selected: np.ndarray  # bool: the rows that Table 4 measures, which are all or those of the prior's sex
    num_selected_by_prediction: int  # of these, how many are selected by a predicted sex; 0 if all rows are measured


class Networks(NamedTuple):
    """The networks that draw portraits of other features than a clip's, and measure these portraits."""

    decoder: torch.nn.Module
    vggface: Any

    @torch.no_grad()
    def draw(self, features: np.ndarray) -> torch.Tensor:
        return self.decoder(torch.from_numpy(np.ascontiguousarray(features, np.float32)))

    @torch.no_grad()
    def redrawn(self, features: np.ndarray) -> np.ndarray:
        """Return VGGFace's features of the decoder's portraits of features."""
        return self.vggface.features(self.draw(features)).numpy()


def model_name(config: Config) -> str:
    """Return the paper's name of a variant: its prior, with "+fc" if the prior goes through Fc2.

    What the paper does not have is part of the name too: a learned weight, an Fc2 that starts at zero, one sex only,
    another architecture.
    """
    architecture = config.speech_encoder.architecture
    if architecture == "speech2face":
        return architecture
    fused = config.speech_encoder.fusion == "fc" and config.speech_encoder.head == "fc2"
    kind = config.prior.kind
    name = "non-prior" if kind == "none" else kind + ("+fc" if fused else "")
    if config.speech_encoder.prior_weight == "learned":
        name = "adaptive" if name == "neutral" else f"adaptive {name}"
    if config.speech_encoder.fc2_init == "zero":
        name += "-residual"
    if config.encoder_sex not in (None, kind):
        name += f"-{config.encoder_sex}"
    return name if architecture == "arspm" else f"{name}, {architecture}"


def gather(config: Config, run: str, table: pa.Table) -> Predictions:
    """Return the predictions of `infer.predict` as arrays.

    Raises ValueError if the model is for one sex and the test split has no clip of it.
    """
    columns = {
        field.name: schema.tensors(table[field.name], schema.tensor_type(field))
        for field in table.schema
        if field.metadata
    }
    split = tables.open_split(stages.corpus(run), "test", len(table))
    genders = read_genders(split, config.gender.label_confidence)
    selected, num_predicted = np.ones(len(table), bool), 0
    if config.encoder_sex is not None:  # a model of one sex is measured on that sex only, as it was trained
        selected = genders.of(config.encoder_sex)
        num_predicted = int(genders.predicted[selected].sum())
        if not selected.any():
            raise ValueError(f"{config.encoder_sex_setting}: the test split has no clip of that sex")
    labels = classes_of(table[schema.GENDER].to_pylist())
    speakers = np.array(tables.speakers(table))
    return Predictions(table, columns, speakers, labels, genders, selected, num_predicted)


def oracle_rows(run: str, test: Predictions) -> np.ndarray | None:
    """Return the oracle's feature for each row, None for real speakers."""
    features = oracle.oracle_features(run)
    if features is None:
        return None
    return np.stack([features[video] for video in test.table[schema.VIDEO_ID].to_pylist()])


def pictures_of(test: Predictions, run: str, name: str) -> list[Pictures]:
    """Return the test split's real faces, the decoder's portraits of their features, and the model's portraits."""
    split = tables.open_split(stages.corpus(run), "test")
    ids = test.table[schema.CLIP_ID].to_pylist()
    faces = tables.read_columns(split, "faces", (schema.FACE_JPEG,))[schema.FACE_JPEG].to_pylist()
    drawn = {column: test.table[column].to_pylist() for column in (schema.FACE_TO_FACE_JPEG, schema.PORTRAIT_JPEG)}
    return [
        Pictures(REAL, ids, test.columns[schema.FACE_FEATURE], faces),
        Pictures(FACE_TO_FACE, ids, test.columns[schema.FACE_TO_FACE_FEATURE], drawn[schema.FACE_TO_FACE_JPEG]),
        Pictures(name, ids, test.columns[schema.PORTRAIT_FEATURE], drawn[schema.PORTRAIT_JPEG]),
    ]


def training_faces(config: Config, run: str) -> dict[str, Any]:
    """Return features and labels of training faces, of both sexes in turn if these are known.

    The column `schema.GENDER` is a `Genders`.
    """
    train = tables.open_split(stages.corpus(run), "train")
    genders = read_genders(train, config.gender.label_confidence)
    rows = choose_rows(genders.names, MAX_TRAINING_FACES, config.seed)["neutral"].rows
    wanted = {"features": (schema.FACE_FEATURE,), "faces": (schema.VIDEO_ID, schema.AGE)}
    columns = tables.read_rows(train, wanted, rows)
    features = columns[schema.FACE_FEATURE].astype(np.float32)
    return columns | {schema.FACE_FEATURE: features, schema.GENDER: genders.take(rows)}


def ages_of(labels: list[float | None]) -> np.ndarray:
    """Return ages in years, NaN for None."""
    return np.array([np.nan if label is None else label for label in labels], float)
