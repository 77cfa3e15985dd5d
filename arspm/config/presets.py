"""Named, complete configurations. A run is one of these plus a few `--set name=value`."""

from __future__ import annotations

import math
from typing import Any

from arspm.config.parse import ConfigError, override
from arspm.config.tree import TRAINED_STAGES, Config, Recipe

_GPU_WORKER = {"cpus": 4, "gpus": 1}

PAPER = override(
    Config(preset="paper"),
    {f"resources.{stage}.{name}": value for stage in TRAINED_STAGES for name, value in _GPU_WORKER.items()}
    # At the paper's batch of 16, steps of the encoder and of the gender classifier are bound by kernel launches: more
    # GPUs would not make them faster.
    | {f"resources.{stage}.num_workers": 4 for stage in ("vggface", "decoder")}
    | {f"training.{stage}.precision": "bf16" for stage in TRAINED_STAGES}
    # An epoch of AVSpeech has 100 times as many steps.
    | {f"training.{stage}.checkpoint_steps": 2000 for stage in TRAINED_STAGES}
    | {
        "resources.preprocess.num_tasks": 64,
        "resources.read.num_tasks": 4,
        "resources.infer.gpus": 1,
        "resources.infer.num_tasks": 4,
        "resources.trial.cpus": 4,
        "resources.trial.gpus": 1,
    },
)
"""Every size and number of the paper, on GPUs: one for the encoder, four for the decoder. With AVSpeech and published
VGGFace weights:

    arspm submit --csv avspeech_train.csv --clips s3://bucket/clips --run s3://bucket/runs/paper --preset paper \\
        --set vggface.weights=s3://bucket/vgg_face_dag.pth

Its duration has not been measured. The paper's Table 4 comes from another evaluation, so do not expect its numbers.
"""


def large_batch(config: Config, stage: str, global_batch_size: int, warmup_epochs: float) -> dict[str, Any]:
    """Return the changes that give a stage a larger batch: field -> value. The number of epochs stays.

    For k times the batch, Adam's learning rate is multiplied by sqrt(k) and its eps divided by it (the square root
    scaling rule, Malladi et al. 2022), and the learning rate rises to this value in the first `warmup_epochs` (Goyal
    et al. 2017). That rule scales the betas as well, which did not help here (docs/performance.md).
    """
    recipe: Recipe = getattr(config.training, stage)
    root = math.sqrt(global_batch_size / recipe.global_batch_size)
    changes = {
        "global_batch_size": global_batch_size,
        "learning_rate": recipe.learning_rate * root,
        "eps": recipe.eps / root,
        "warmup_epochs": warmup_epochs,
    }
    return {f"training.{stage}.{name}": value for name, value in changes.items()}


MANY_GPUS = override(
    PAPER,
    {
        "preset": "many-gpus",
        # Rows of each GPU: 16 for the decoder and VGGFace, 32 for the encoder. The gender classifier is so small that
        # one GPU keeps up with the others.
        "resources.vggface.num_workers": 32,
        "resources.decoder.num_workers": 32,
        "resources.encoder.num_workers": 16,
        "resources.infer.num_tasks": 32,
        "resources.preprocess.num_tasks": 256,
    }
    | large_batch(PAPER, "gender", 256, 2)
    | large_batch(PAPER, "vggface", 512, 2)
    | large_batch(PAPER, "decoder", 512, 2)
    | large_batch(PAPER, "encoder", 512, 2),
)
"""The paper's networks on 32 GPUs: batches of 512 (256 for the gender classifier), the learning rates of `large_batch`.

A batch has 64 lanes, so 1, 2, 4 ... up to 64 workers can share it. `python -m benchmarks.large_batch` compares such a
recipe with that of the small batch on a run's data; at the paper's size it has not been measured.
"""


# One process with two threads, not two with one: it trains the decoder 1.5 times as fast, and imports torch only once.
_CPU_WORKER = {"cpus": 0.4, "threads": 2}
_TWO_CORES = {
    "data.storage": "spectrogram",  # on a CPU, the STFT of a batch takes half as long as the rest of the encoder's step
    "resources.preprocess.num_tasks": 2,
    "resources.preprocess.cpus": 0.5,
    "resources.read.cpus": 0.1,
    "resources.infer.cpus": 0.5,
    "resources.infer.threads": 2,
    "resources.trial.cpus": 0.9,
    "resources.trial.threads": 1,
} | {f"resources.{stage}.{name}": value for stage in TRAINED_STAGES for name, value in _CPU_WORKER.items()}

DEMO = override(
    Config(preset="demo"),
    _TWO_CORES
    | {
        "feature_dim": 512,
        "image_size": 64,
        "data.val_fraction": 0.1,
        "data.test_fraction": 0.25,
        "data.rows_per_shard": 32,
        "face.num_frames": 3,
        "speech_encoder.width": 0.25,
        "face_decoder.width": 0.25,  # at 0.125 the last feature map has four channels, too few for colour
        "vggface.width": 0.125,
        "gender.width": 0.25,
        "decoder_loss.ms_ssim_window": 3,
        "decoder_loss.l1_sigma": 8 * 64 / 224,
        "vggface.dropout": 0.0,
        # Augmentation and a faster decay, because networks memorize a small corpus within a few epochs.
        "training.vggface.epochs": 40,
        "training.vggface.augment": True,
        "training.vggface.learning_rate": 5e-4,
        "training.vggface.decay_epochs": 8,
        "training.vggface.beta1": 0.9,
        "training.vggface.eps": 1e-8,
        "training.gender.epochs": 3,
        "training.gender.augment": True,
        "training.decoder.epochs": 24,
        "training.decoder.learning_rate": 3e-3,
        "training.decoder.decay": 0.85,
        "training.decoder.eps": 1e-8,
        "training.encoder.epochs": 30,
        "training.encoder.augment": True,
        "training.encoder.decay": 0.86,
        "training.encoder.eps": 1e-8,
    }
    | {f"training.{stage}.num_lanes": 8 for stage in TRAINED_STAGES},
)
"""The same code with narrower networks and 64-pixel faces: all stages in minutes on two cores (`make demo`)."""

SMOKE = override(
    DEMO,
    {
        "preset": "smoke",
        "feature_dim": 64,
        "image_size": 64,
        "speech_encoder.width": 0.0625,
        "face_decoder.width": 0.0625,
        "vggface.width": 0.0625,
        "gender.width": 0.0625,
        "data.val_fraction": 0.25,
        "data.test_fraction": 0.25,
        "data.rows_per_shard": 8,
        "data.rows_per_group": 4,
        "face.num_frames": 2,
        "ingest.window_rows": 8,
        "oracle.num_draws": 4,
        "evaluate.num_resamples": 200,
        "evaluate.num_portraits": 4,
        "resources.infer.num_tasks": 2,
        "resources.infer.threads": 1,
        "resources.decoder.num_workers": 2,
        "resources.encoder.num_workers": 2,
    }
    | {f"resources.{stage}.threads": 1 for stage in TRAINED_STAGES}
    | {f"training.{stage}.epochs": 2 for stage in TRAINED_STAGES}
    | {f"training.{stage}.global_batch_size": 8 for stage in TRAINED_STAGES}
    | {f"training.{stage}.num_lanes": 4 for stage in TRAINED_STAGES},
)
"""For tests: each stage takes seconds."""

PRESETS = {preset.preset: preset for preset in (PAPER, MANY_GPUS, DEMO, SMOKE)}


def preset(name: str) -> Config:
    """Return the preset of this name. Raises ConfigError that lists the names."""
    if name not in PRESETS:
        raise ConfigError(f"{name}: there is no such preset; there are {', '.join(PRESETS)}")
    return PRESETS[name]
