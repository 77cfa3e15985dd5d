"""All settings as one frozen, validated tree. The defaults are the paper's.

A letter in parentheses, such as (A), names the reading of the paper that explains a field; `docs/paper.md` lists them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from arspm.config.fields import BUILT_IN_NAMES, IS_URI, Count, Fraction, NonNegative, Positive, Section, Uri, one_of
from arspm.config.resources import Resources

Width = Annotated[float, Field(gt=0, le=4)]
Cbam = Literal["channel_first", "spatial_first", "parallel", "channel_only", "none"]


class DataFormat(NamedTuple):
    """The fields of `data` that a format of clips requires, and those that it may have; labels are always allowed."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


# `media.datasets.READERS` has each format's reader.
DATA_FORMATS = {
    "avspeech": DataFormat(("csv", "clips"), ("test_csv",)),
    "voxceleb": DataFormat(("csv", "clips"), ("faces",)),
    "folder": DataFormat(("clips",)),
}


class Data(Section):
    """The source data of the corpus, its splits and its shards. `docs/data.md` shows each format's files."""

    format: Annotated[str, one_of(DATA_FORMATS)] = "avspeech"  # how the clips are named and described (docs/data.md)
    csv: Uri = ""  # avspeech: video id, start, end, x, y[, file]; voxceleb: vox1_meta.csv; folder: none
    test_csv: Uri = ""  # avspeech: a second table, for the test split (S); csv is then split into train and val
    clips: Uri = ""  # folder with the clips' files; voxceleb and folder: with one folder per speaker
    faces: Uri = ""  # voxceleb: folder with the face images; not needed if the clips are videos
    labels: Uri = ""  # labels.csv with gender, age and identity; empty: no labels
    inventory_minutes: NonNegative = 60.0  # jobs of a submitted run list the files again if its listing is older
    seconds: Literal["first", "speech"] = "first"  # which six seconds of a longer clip: the first, or with most speech
    max_seconds: Annotated[float, Field(gt=0)] = 3600.0  # clips that last longer are dropped
    tolerance_seconds: NonNegative = 0.5  # a file whose length differs by less from a row's is the clip itself
    min_speech_seconds: NonNegative = 0.3  # clips with less speech in the sound that is used are dropped
    filter: str = ""  # which training clips are used, by what was measured: "face_score > 0.5 and voiced_seconds > 2"
    max_internal_errors: Fraction = 0.01  # fraction of the clips that may fail for no fault of their own
    storage: Literal["spectrogram", "waveform"] = "waveform"  # waveform: a third of the size, STFT during training
    split: Literal["hash", "hq-voxceleb"] = "hash"  # hq-voxceleb: SF2F's split, by the rows of VoxCeleb's metadata
    val_fraction: Fraction = 0.02  # fraction of the video ids in the val split, chosen by hash (S)
    test_fraction: Fraction = 0.02  # fraction of the video ids in the test split, chosen by hash (S)
    rows_per_shard: Annotated[int, Field(ge=1, le=3400)] = 384  # rows in each Parquet file; 384 waveforms: 74 MB
    rows_per_group: Count = 64  # rows in each Parquet row group, the unit of reading


class Face(Section):
    """Detection of the face in a clip, and its crop."""

    detector: Uri = "hog"  # hog: dlib's; yunet: OpenCV's, downloaded once; otherwise the path of a YuNet ONNX file
    num_frames: Count = 8  # evenly spaced frames per clip in which faces are detected
    crop: Literal["square", "aligned"] = "square"  # aligned: turned and scaled by the eyes, nose and mouth; not for hog
    margin: NonNegative = 0.25  # margin on each side of the detected box, as a fraction of its side
    min_side_pixels: Count = 24  # clips with a smaller face are dropped
    min_score: Fraction = (
        0.4  # lowest score of a detection; real faces have 0.5 and more, what is upside down 0.38 and less
    )
    min_frames: Count = 2  # frames in which the face must be found, if there are four or more
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95  # JPEG quality of the stored faces


class Ingest(Section):
    """The order in which training reads rows, and the way that they take (docs/data.md)."""

    subset: Count | None = None  # train on the first this many clips only; a smaller subset is part of a larger one
    sex: Literal["any", "female", "male"] = "any"  # sex of the speakers that the encoder is trained and measured on
    # Rows of one lane that are shuffled together. Null: 192, or 64 if spectrograms are stored.
    window_rows: Count | None = None
    prefetch_batches: Count = 4  # batches that each worker loads ahead
    path: Literal["auto", "stream", "cache", "resident"] = (
        "auto"  # way of the rows to the workers; auto: the fastest with room
    )
    cache_gib: NonNegative = 100  # size of the decoded rows on each node's disk, over all runs
    cache_folder: str = ""  # folder of these rows; empty: $ARSPM_CACHE, or one in the folder for temporary files


class SpeechEncoder(Section):
    """The speech encoder: Table 3 (D, E, F), or an encoder that the paper compares with it."""

    architecture: Literal["arspm", "speech2face", "resnet18", "resnet34", "densenet121"] = "arspm"  # the network
    width: Width = 1.0  # factor on the convolutions' channels
    cbam: Cbam = "channel_first"  # order of CBAM's channel and spatial attention
    cbam_reduction: Count = 16  # channels / hidden units of the channel attention
    fusion: Literal["fc", "sum"] = "fc"  # fc: Fc2(residual + prior); sum: Fc2(residual) + prior
    head: Literal["fc2", "none"] = "fc2"  # none: leave Fc2 out, residual + prior; needs fusion sum
    fc2_init: Literal["random", "zero"] = "random"  # zero: training starts at the prior; needs fusion sum
    prior_weight: Literal["one", "learned"] = "one"  # learned: each clip's weight on the prior, between 0 and 1


class FaceDecoder(Section):
    """The face decoder: Table 2 (A to D)."""

    width: Width = 1.0  # factor on every channel count and on Fc1's units
    as_printed: bool = False  # use Table 2's strides as printed, which give half the image size
    cbam: Cbam = "channel_first"  # order of CBAM's channel and spatial attention
    cbam_reduction: Count = 16  # channels / hidden units of the channel attention
    cbam_position: Literal["features", "output"] = "features"  # CBAM after the reshape, or before Conv1
    batch_norm: bool = True  # BatchNorm between each transposed convolution and its ReLU


class VggFace(Section):
    """VGGFace, the network of the face feature (H, I). Without `weights` it is trained as an identity classifier."""

    weights: Uri = ""  # published weights, in any of six file formats; empty: train
    channel_order: Literal["auto", "rgb", "bgr"] = "auto"  # input channels of `weights`; auto: by the file format
    width: Width = 1.0  # factor on the convolutions' channels
    num_identities: Count = 2622  # the paper's number, used by benchmarks only; otherwise weights or data decide
    feature: Literal["pre_relu", "post_relu"] = "pre_relu"  # fc7 before or after its ReLU
    # Mean norm to which the features are scaled; null: not scaled. The weights of eq. 7 are balanced for 6.3, the norm
    # of the paper's features: L2 / (2 sin(Cos / 2)) has this median over the seven models of Table 4.
    feature_norm: Positive | None = 6.3
    dropout: Fraction = 0.5  # probability, in training
    feature_dtype: Literal["float16", "float32"] = "float32"  # dtype of face features in the corpus


class GenderClassifier(Section):
    """The classifier of gender from speech (G), whose predictions can replace missing labels."""

    width: Width = 1.0  # factor on the convolutions' channels
    weights: Uri = ""  # a trained network: the URI of another run, or a .safetensors file; empty: train
    predict_missing: bool = False  # let predictions replace missing labels; they always do with `weights`
    min_confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.5  # below it, a predicted sex counts as unknown

    @property
    def label_confidence(self) -> float | None:
        """The least confidence of a prediction that replaces a missing label; None if labels.csv alone counts."""
        return self.min_confidence if self.weights or self.predict_missing else None


class Prior(Section):
    """The mean face feature (eq. 3, Table 1, R)."""

    # gender: by the gender classifier; constant: a random vector with the neutral prior's norm, as a control
    kind: Literal["none", "neutral", "gender", "female", "male", "constant"] = "neutral"
    num_faces: Count = 10_000  # number of faces that are averaged


class Loss(Section):
    """The speech encoder's loss (eq. 7, J, K)."""

    lambda1: NonNegative = 1.0  # weight of the squared L2 distance of the unit vectors
    lambda2: NonNegative = 0.04  # weight of the L1 distance of the decoder's first hidden layer
    lambda3: NonNegative = 1.2  # weight of the identity term
    identity: Literal["cosine", "distillation"] = "cosine"  # the identity term


class DecoderLoss(Section):
    """The face decoder's loss (eq. 4 to 6, L). The default window and sigmas are for images of 224 pixels."""

    form: Literal["wang", "zhao"] = "wang"  # MS-SSIM of halved images, or of five Gaussians at full size
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.84  # weight of MS-SSIM; L1 has 1 - alpha
    ms_ssim_window: Annotated[int, Field(ge=3)] = 11  # wang: side of MS-SSIM's Gaussian window, in pixels
    ms_ssim_sigma: Positive = 1.5  # wang: standard deviation of that window, in pixels
    l1_sigma: Positive = 8.0  # standard deviation of the L1 term's Gaussian, and of zhao's coarsest scale, in pixels


class Recipe(Section):
    """How one network is trained, with Adam (M)."""

    epochs: Count = 50  # passes over the training clips
    global_batch_size: Count = 16  # clips per step, over all workers together
    # Parallel row streams that form a global batch; the workers divide them. Null: the largest divisor of the batch up
    # to 64.
    num_lanes: Count | None = None
    learning_rate: Positive = 1e-3  # Adam's initial learning rate
    decay: Positive = 0.9  # factor on the learning rate after every `decay_epochs` epochs
    decay_epochs: Count = 2  # epochs between two decays of the learning rate
    warmup_epochs: NonNegative = 0.0  # first epochs, in which the learning rate rises linearly from 0; 0: none
    beta1: Fraction = 0.5  # Adam's beta1
    beta2: Fraction = 0.999  # Adam's beta2
    eps: Positive = 1e-4  # Adam's epsilon
    augment: bool = False  # vggface: mirrored, shifted, re-lit faces; encoder, gender: a random half of the speech
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast to bfloat16
    channels_last: bool = True  # use PyTorch's channels-last memory format
    compile: bool = False  # use torch.compile
    fused: bool = True  # use Adam's fused kernel
    checkpoint_steps: Count | None = None  # steps between checkpoints, in addition to one after each epoch

    @property
    def lanes(self) -> int:
        """The number of lanes: `num_lanes`, or the default."""
        batch = self.global_batch_size
        return self.num_lanes or max(each for each in range(1, _MAX_LANES + 1) if batch % each == 0)


class Training(Section):
    """The recipe of each network that is trained."""

    vggface: Recipe = Recipe()
    gender: Recipe = Recipe()
    decoder: Recipe = Recipe()
    encoder: Recipe = Recipe()


class Oracle(Section):
    """The best speech feature that any voice allows: a bound on that feature only, for synthetic speakers only."""

    speakers: Uri = ""  # speakers.parquet, the true attributes of synthetic speakers; empty: no oracle, no probes
    num_draws: Count = 24  # faces drawn for each speaker, with the same values of the attributes that a voice carries


class Evaluate(Section):
    """The metrics and pictures of the report."""

    judge: Uri = (
        "classifier"  # judge of sex and age; classifier: trained here; otherwise a .csv of predictions or an .onnx
    )
    landmarks: Uri = ""  # yunet or a YuNet file, for craniofacial measures; empty: face.detector, if it is one
    recognizer: Uri = ""  # an ONNX face embedder, with its input declared in the same name plus .json; empty: none
    num_clips: Count = 10_000  # evaluate the first this many test clips, held in memory (an estimated 0.6 MB each)
    num_resamples: Count = 2000  # bootstrap resamples for each confidence interval
    num_portraits: Count = 12  # speakers in the report's grid of portraits
    batch_size: Count = 32  # clips per forward pass


class Config(Section):
    """All settings of a run."""

    preset: str = "paper"  # the preset that this configuration is based on
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # seed of the random streams
    feature_dim: Count = 4096  # numbers in a face feature
    image_size: Annotated[int, Field(ge=32, le=224, multiple_of=32)] = 224  # side of faces and portraits, in pixels
    provenance: Literal["all", "code", "none"] = (
        "all"  # in manifests; code: the git commit, all: also command, user, host
    )
    max_hashed_gib: NonNegative = 16.0  # of finished stages' files whose SHA-256 a command checks; sizes always are
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

    @property
    def window_rows(self) -> int:
        """`ingest.window_rows`, or the default: a window of spectrograms has as many bytes as one of waveforms."""
        return self.ingest.window_rows or (64 if self.data.storage == "spectrogram" else 192)

    @property
    def encoder_sex(self) -> str | None:
        """The sex of the speakers on which the encoder is trained and measured (section 4.3.2); None for all."""
        if self.ingest.sex != "any":
            return self.ingest.sex
        return self.prior.kind if self.prior.kind in ("female", "male") else None

    @property
    def encoder_sex_setting(self) -> str:
        """The setting that restricts the encoder to one sex, for errors: "prior.kind=male"."""
        return f"{'prior.kind' if self.ingest.sex == 'any' else 'ingest.sex'}={self.encoder_sex}"

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, tree: Any) -> Any:
        """Read what finished runs recorded before every recipe had its own lanes."""
        if isinstance(tree, dict) and isinstance(ingest := tree.get("ingest"), dict) and "num_lanes" in ingest:
            training = tree.get("training", {})
            own = {stage: {**training.get(stage, {}), "num_lanes": ingest["num_lanes"]} for stage in TRAINED_STAGES}
            tree = {**tree, "training": own, "ingest": {k: v for k, v in ingest.items() if k != "num_lanes"}}
        return tree

    @model_validator(mode="after")
    def _check_combinations(self) -> Config:
        problems = []
        if self.data.split == "hq-voxceleb" and self.data.format != "voxceleb":
            problems.append("data.split: must be hash, because hq-voxceleb is a split of data.format = voxceleb")
        if self.data.val_fraction + self.data.test_fraction >= 1:
            problems.append(
                "data.val_fraction and data.test_fraction: must add up to less than 1, to leave clips for training"
            )
        if self.speech_encoder.fusion == "fc" and self.speech_encoder.head == "none":
            problems.append(
                "speech_encoder.fusion: must be sum, because head = none leaves out Fc2, which fusion = fc needs"
            )
        if self.speech_encoder.architecture == "speech2face" and self.prior.kind != "none":
            problems.append("prior.kind: must be none, because Speech2Face's encoder takes no prior")
        if self.speech_encoder.fc2_init == "zero" and (
            self.prior.kind == "none" or self.speech_encoder.fusion != "sum" or self.speech_encoder.head == "none"
        ):
            problems.append(
                "speech_encoder.fc2_init: zero needs a prior, fusion = sum and head = fc2, otherwise the first feature "
                "is zero or there is no Fc2"
            )
        if self.speech_encoder.prior_weight == "learned" and self.prior.kind == "none":
            problems.append("speech_encoder.prior_weight: learned needs a prior, but prior.kind = none")
        if self.prior.kind in ("female", "male") and self.ingest.sex not in ("any", self.prior.kind):
            problems.append(f"ingest.sex: must be any or {self.prior.kind}, the sex of prior.kind")
        if self.face.crop == "aligned" and self.face.detector == "hog":
            problems.append("face.crop: must be square with face.detector = hog, which finds no landmarks; use yunet")
        portrait_size = self.image_size // 2 if self.face_decoder.as_printed else self.image_size
        largest = (portrait_size - 1) // 16 + 1  # Wang's MS-SSIM halves the image four times
        if self.decoder_loss.form == "zhao":
            pass  # it has no window that could be too large
        elif largest < 3:
            problems.append(
                f"image_size: portraits of {portrait_size} pixels are too small for the five scales of MS-SSIM"
            )
        elif self.decoder_loss.ms_ssim_window % 2 == 0 or self.decoder_loss.ms_ssim_window > largest:
            problems.append(
                f"decoder_loss.ms_ssim_window: must be an odd number up to {largest} for portraits of "
                f"{portrait_size} pixels"
            )
        for stage in TRAINED_STAGES:
            recipe: Recipe = getattr(self.training, stage)
            if recipe.warmup_epochs > recipe.epochs:
                problems.append(
                    f"training.{stage}.warmup_epochs: must be at most training.{stage}.epochs = {recipe.epochs}, not "
                    f"{recipe.warmup_epochs:g}"
                )
            if recipe.global_batch_size % recipe.lanes:
                problems.append(
                    f"training.{stage}.global_batch_size: must be a multiple of training.{stage}.num_lanes = "
                    f"{recipe.lanes}, not {recipe.global_batch_size}"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def worker_problems(self, group: str) -> list[str]:
        """Return what is wrong with the number of workers of a stage, or of "trial"; [] if nothing is.

        It is no error of the configuration itself, because it matters only to what will run.
        """
        stage = "encoder" if group == "trial" else group
        workers, lanes = getattr(self.resources, group), getattr(self.training, stage).lanes
        field, setting = f"resources.{group}.num_workers", f"training.{stage}.num_lanes = {lanes}"
        if isinstance(workers.num_workers, int) and lanes % workers.num_workers:
            return [f"{field}: {workers.num_workers} does not divide {setting}, the parts of a global batch"]
        if not workers.least <= workers.most <= lanes:
            wanted = f"[least, most] with least <= most <= {setting}"
            return [f"{field}: must be {wanted}, not {list(workers.num_workers)}"]
        return []


TRAINED_STAGES = ("vggface", "gender", "decoder", "encoder")
_MAX_LANES = 64


def field_names(model: Any = Config, prefix: str = "") -> list[str]:
    """Return the dotted name of every field, in the tree's order."""
    names = []
    for name, field in model.model_fields.items():
        if is_section(model, name):
            names += field_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def settings(config: Config) -> dict[str, Any]:
    """Return every setting as dotted name -> JSON value."""
    tree = config.model_dump(mode="json")
    by_name = {}
    for name in field_names():
        value: Any = tree
        for part in name.split("."):
            value = value[part]
        by_name[name] = value
    return by_name


def uri_fields(config: Section, prefix: str = "") -> dict[str, str]:
    """Return the URIs in a configuration: the field's dotted name -> URI."""
    found: dict[str, str] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            found |= uri_fields(value, f"{prefix}{name}.")
        elif IS_URI in field.metadata and value and value not in BUILT_IN_NAMES:
            found[prefix + name] = value
    return found


def is_section(model: Any, name: str) -> bool:
    """Return whether `name` is a section of the model, rather than a field or unknown."""
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    return isinstance(annotation, type) and issubclass(annotation, Section)
