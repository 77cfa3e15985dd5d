"""One frozen, validated tree of all settings. The defaults are the paper's.

Letters in brackets, as (A), name the reading of the paper that a field belongs to; `docs/paper.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from arspm.storage import uris

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[float, Field(gt=0, le=4)]
Cbam = Literal["channel_first", "spatial_first", "parallel", "channel_only", "none"]


def _in_one_line(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except ValidationError:  # one line for each kind that the value is not
        raise PydanticCustomError("workers", "Input should be a number from 1, or a range as [1, 4]") from None


def _as_uri(value: str) -> str:
    if value and (why := uris.given_problem(value)):
        raise PydanticCustomError("place", "{why}", {"why": why})
    return value


_URI = AfterValidator(_as_uri)
Uri = Annotated[str, _URI]  # a path or s3://; nothing that may be a password is kept or told
WORDS = ("hog", "classifier")  # in the stead of a place
WorkerCount = Annotated[Count | tuple[Count, Count], WrapValidator(_in_one_line)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """What the corpus is made of, and how much of it is used. `docs/data.md` shows each format's files."""

    format: Literal["avspeech", "voxceleb", "folder"] = "avspeech"
    csv: Uri = ""  # avspeech: video id, start, end, x, y[, file]; voxceleb: vox1_meta.csv; folder: none
    test_csv: Uri = ""  # avspeech: the rows of the test split (S); those of csv are then for training and validation
    clips: Uri = ""  # the folder with the clips' files, or the speakers' folders
    faces: Uri = ""  # voxceleb: the folder of the face images
    labels: Uri = ""  # labels.csv; empty: none
    storage: Literal["spectrogram", "waveform"] = "spectrogram"  # waveform: 3 times smaller, STFT when training
    val_fraction: Fraction = 0.02  # of the video ids, by hash (S)
    test_fraction: Fraction = 0.02
    rows_per_shard: Count = 384  # 236 MB of spectrograms
    rows_per_group: Count = 64


class Face(Section):
    """How a face is found and cut out of a clip."""

    detector: Uri = "hog"  # dlib's HOG, or the path of a YuNet ONNX file
    num_frames: Count = 8  # looked at in each clip, evenly spaced
    margin: NonNegative = 0.25  # of the face's side, added on each side of the box
    min_side_pixels: Count = 24
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95


class Ingest(Section):
    """The order in which training reads rows: a pure function of these numbers, the seed and the epoch."""

    subset: Count | None = None  # the first this many training clips; subsets nest
    num_lanes: Count = 8  # parallel streams that make a global batch, which workers share out
    window_rows: Count = 256  # rows of one lane that are shuffled together
    prefetch_batches: Count = 4


class SpeechEncoder(Section):
    """Table 3 (D, E, F), or one of the encoders that the paper compares with it."""

    architecture: Literal["arspm", "speech2face", "resnet18", "resnet34", "densenet121"] = "arspm"
    width: Width = 1.0
    cbam: Cbam = "channel_first"
    cbam_reduction: Count = 16
    fusion: Literal["fc", "sum"] = "fc"
    head: Literal["fc2", "none"] = "fc2"


class FaceDecoder(Section):
    """Table 2 (A to D)."""

    width: Width = 1.0
    as_printed: bool = False  # Table 2's strides as printed: half the image size
    cbam: Cbam = "channel_first"
    cbam_reduction: Count = 16
    cbam_position: Literal["features", "output"] = "features"
    batch_norm: bool = True


class VggFace(Section):
    """The face feature's network (H, I). Without `weights` it is trained here, as an identity classifier."""

    weights: Uri = ""  # a published file, in any of six formats
    channel_order: Literal["auto", "rgb", "bgr"] = "auto"  # of its first layer; auto: what the file's format has
    width: Width = 1.0
    num_identities: Count = 2622  # the paper's, for benchmarks; weights bring their own, training faces too
    feature: Literal["pre_relu", "post_relu"] = "pre_relu"
    dropout: Fraction = 0.5
    feature_dtype: Literal["float16", "float32"] = "float32"  # as stored in the corpus


class GenderClassifier(Section):
    """The gender network that hears speech (G)."""

    width: Width = 1.0


class Prior(Section):
    """The mean face feature (eq. 3, Table 1, R)."""

    kind: Literal["none", "neutral", "gender", "female", "male"] = "neutral"
    num_faces: Count = 10_000


class Loss(Section):
    """The speech encoder's loss (eq. 7, J, K)."""

    lambda1: NonNegative = 1.0
    lambda2: NonNegative = 0.04
    lambda3: NonNegative = 1.2
    identity: Literal["cosine", "distillation"] = "cosine"


class DecoderLoss(Section):
    """The face decoder's loss (eq. 4 to 6, L). Window and sigmas are those of 224 pixels."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.84
    ms_ssim_window: Annotated[int, Field(ge=3)] = 11
    ms_ssim_sigma: Positive = 1.5
    l1_sigma: Positive = 8.0


class Recipe(Section):
    """How one network is trained (M)."""

    epochs: Count = 50
    global_batch_size: Count = 16  # over all workers together
    learning_rate: Positive = 1e-3
    decay: Positive = 0.9  # the learning rate's factor, every `decay_epochs`
    decay_epochs: Count = 2
    beta1: Fraction = 0.5
    beta2: Fraction = 0.999
    eps: Positive = 1e-4
    augment: bool = False  # vggface: mirrored, shifted, re-lit faces; encoder, gender: a random half of the speech
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    fused: bool = True
    checkpoint_steps: Count | None = None  # beside one at each epoch's end


class Training(Section):
    """A recipe for each network that is trained."""

    vggface: Recipe = Recipe()
    gender: Recipe = Recipe()
    decoder: Recipe = Recipe()
    encoder: Recipe = Recipe()


class Oracle(Section):
    """The best that any voice could give, computable for made-up speakers only."""

    speakers: Uri = ""  # speakers.parquet, the true causes; empty: no oracle, no probes
    num_draws: Count = 24  # faces drawn for each speaker, alike in what a voice carries


class Evaluate(Section):
    """The figures and pictures of the report."""

    judge: Uri = "classifier"  # of sex and age: one trained here, or the path of a .csv of predictions or of an .onnx
    landmarks: Uri = ""  # a YuNet ONNX file, for craniofacial measures; empty: the face detector's, if it gives any
    num_clips: Count = 10_000  # of the test split, the first so many, held in memory: an estimated 0.6 MB a clip
    num_resamples: Count = 2000  # bootstrap
    num_portraits: Count = 12  # speakers in the report's grid
    batch_size: Count = 32


_POOL_SHARE = 0.001  # of a node's resource: it only has to be there
_RAYS_OWN = ("memory", "object_store_memory")  # no pool's name


class ResourceRequest(Section):
    """What one worker, or one task, asks of a node."""

    cpus: NonNegative = 1
    gpus: NonNegative = 0
    memory_gib: NonNegative = 0  # kept free for it by Ray, which does not hold it to that; 0: not asked for
    pool: Annotated[str, Field(pattern=r"^([a-z][a-z0-9_]*)?$")] = ""  # nodes with this resource only, as `on_demand`

    @field_validator("pool")
    @classmethod
    def _of_ones_own(cls, pool: str) -> str:
        if pool in _RAYS_OWN:
            raise ValueError(f"{pool} is a resource of Ray's own, no pool of nodes")
        return pool

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30

    @property
    def remote_options(self) -> dict[str, Any]:
        """As keywords of `ray.remote` and of Ray Data."""
        asked: dict[str, Any] = {"num_cpus": self.cpus}
        asked |= {"num_gpus": self.gpus} if self.gpus else {}
        asked |= {"memory": self.memory_bytes} if self.memory_gib else {}
        return asked | ({"resources": {self.pool: _POOL_SHARE}} if self.pool else {})

    @property
    def bundle(self) -> dict[str, float]:
        """As a bundle of a placement group."""
        asked = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        asked |= {self.pool: _POOL_SHARE} if self.pool else {}
        return {name: amount for name, amount in asked.items() if amount or name == "CPU"}


class Workers(ResourceRequest):
    """A group of training workers."""

    num_workers: WorkerCount = 1  # or [least, most]: as many as there is room for, which may change amid training

    @property
    def least(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most(self) -> int:
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


class Tasks(ResourceRequest):
    """Ray Data's tasks of one kind."""

    num_tasks: Count = 1  # at once


class Trial(Workers):
    """A trial of a sweep. With one worker it runs inside Tune's own actor."""

    num_workers: Count = 1
    share_gib: NonNegative = 2  # a corpus up to this size is held in the object store, once a node; else streamed


class Resources(Section):
    """What the stages ask the cluster for. Never part of a fingerprint: it changes how fast, not what."""

    vggface: Workers = Workers()
    gender: Workers = Workers()
    decoder: Workers = Workers()
    encoder: Workers = Workers()
    trial: Trial = Trial()
    preprocess: Tasks = Tasks()
    read: Tasks = Tasks()
    infer: Tasks = Tasks()
    threads_per_worker: Count | None = None  # torch threads; None leaves torch's choice
    max_failures: Annotated[int, Field(ge=0)] = 3  # of workers and nodes, in one stage


class Config(Section):
    """Everything that decides a run."""

    preset: str = "paper"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    feature_dim: Count = 4096
    image_size: Annotated[int, Field(ge=32, le=224, multiple_of=32)] = 224
    data: Data = Data()
    face: Face = Face()
    ingest: Ingest = Ingest()
    speech_encoder: SpeechEncoder = SpeechEncoder()
    face_decoder: FaceDecoder = FaceDecoder()
    vggface: VggFace = VggFace()
    gender: GenderClassifier = GenderClassifier()
    prior: Prior = Prior()
    loss: Loss = Loss()
    decoder_loss: DecoderLoss = DecoderLoss()
    training: Training = Training()
    oracle: Oracle = Oracle()
    evaluate: Evaluate = Evaluate()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _agree(self) -> Config:
        problems = []
        if self.data.val_fraction + self.data.test_fraction >= 1:
            problems.append(
                "data.val_fraction and data.test_fraction: together under 1, or nothing is left to train on"
            )
        if self.speech_encoder.fusion == "fc" and self.speech_encoder.head == "none":
            problems.append("speech_encoder.fusion: sum, since head = none leaves out the Fc2 that fc fuses with")
        if self.speech_encoder.architecture == "speech2face" and self.prior.kind != "none":
            problems.append("prior.kind: none, since Speech2Face's encoder has no place for a prior")
        portrait_size = self.image_size // 2 if self.face_decoder.as_printed else self.image_size
        largest = (portrait_size - 1) // 16 + 1  # MS-SSIM halves the image four times
        if largest < 3:
            problems.append(f"image_size: portraits of {portrait_size} pixels are too small for MS-SSIM's five scales")
        elif self.decoder_loss.ms_ssim_window % 2 == 0 or self.decoder_loss.ms_ssim_window > largest:
            problems.append(
                f"decoder_loss.ms_ssim_window: an odd number up to {largest}, for portraits of {portrait_size} pixels"
            )
        for stage in TRAINED_STAGES:
            batch, lanes = getattr(self.training, stage).global_batch_size, self.ingest.num_lanes
            if batch % lanes:
                problems.append(
                    f"training.{stage}.global_batch_size: a multiple of ingest.num_lanes = {lanes}, not {batch}"
                )
            elif self.ingest.window_rows % (batch // lanes):
                problems.append(
                    f"ingest.window_rows: a multiple of training.{stage}'s {batch // lanes} rows a lane and step"
                )
        lanes = self.ingest.num_lanes
        for group in (*TRAINED_STAGES, "trial"):
            workers = getattr(self.resources, group)
            if isinstance(workers.num_workers, int) and lanes % workers.num_workers:
                problems.append(
                    f"resources.{group}.num_workers: a divisor of ingest.num_lanes = {lanes}, not {workers.num_workers}"
                )
            elif not workers.least <= workers.most <= lanes:
                problems.append(
                    f"resources.{group}.num_workers: [least, most] with most up to ingest.num_lanes = {lanes}, "
                    f"not {list(workers.num_workers)}"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self


TRAINED_STAGES = ("vggface", "gender", "decoder", "encoder")


def field_names(model: Any = Config, prefix: str = "") -> list[str]:
    """Every field's dotted name."""
    found = []
    for name, field in model.model_fields.items():
        if is_section(model, name):
            found += field_names(field.annotation, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def given_uris(config: Section, prefix: str = "") -> dict[str, str]:
    """Every path or s3:// in a configuration, by its field's dotted name."""
    found: dict[str, str] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            found |= given_uris(value, f"{prefix}{name}.")
        elif _URI in field.metadata and value and value not in WORDS:
            found[prefix + name] = value
    return found


def is_section(model: Any, name: str) -> bool:
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, Section)
