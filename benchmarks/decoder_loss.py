"""Compares the two forms of the decoder's image loss: `python -m benchmarks.decoder_loss --run runs/demo`.

Trains the face decoder of a run whose features stage is done, once for each form (`decoder_loss.form`) and seed, in
this process and without changing the run. Prints how close the portraits of test faces come to the real faces: MS-SSIM
as Wang et al. define it and as Zhao et al. do (1 is equal), mean absolute error, PSNR, and the angle between VGGFace's
features. At the demo's size an epoch takes about 10 seconds of one core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from arspm import storage
from arspm.config import Config, override
from arspm.corpus import schema, tables
from arspm.distributed import local
from arspm.distributed.train.alone import train_alone
from arspm.distributed.train.rows import gather_rows
from arspm.evaluation import metrics
from arspm.media.jpeg import decode_jpeg
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.training import artifacts, checkpoint
from arspm.training.losses import IMAGE_LOSSES, image_loss

FIGURES = ("wang_ms_ssim", "zhao_ms_ssim", "l1", "psnr_db", "degrees")


def train_decoder(config: Config, run: str) -> torch.nn.Module:
    """Return a decoder trained with the configuration's loss and seed, at its best epoch."""
    model = speech_portrait.face_decoder(config)
    with tempfile.TemporaryDirectory() as folder:
        train_alone("decoder", config, run, gather_rows("decoder", config, run), Path(folder))
        checkpoint.restore(model, checkpoint.read_weights(Path(folder, checkpoint.BEST)), folder)
    return model.eval()


@torch.no_grad()
def measure(decoder: torch.nn.Module, config: Config, run: str) -> dict[str, float]:
    """Return each of FIGURES, the mean over the faces of the test split."""
    network = artifacts.load_vggface(run, config)
    split = tables.open_split(stages.corpus(run), "test")
    columns = {"faces": (schema.FACE_JPEG,), "features": (schema.FACE_FEATURE,)}
    settings = {
        "alpha": 1.0,
        "window_size": config.decoder_loss.ms_ssim_window,
        "window_sigma": config.decoder_loss.ms_ssim_sigma,
        "l1_sigma": config.decoder_loss.l1_sigma,
    }
    values: dict[str, list[torch.Tensor]] = {name: [] for name in FIGURES}
    for begin in range(0, split.num_rows, config.evaluate.batch_size):
        rows = np.arange(begin, min(begin + config.evaluate.batch_size, split.num_rows))
        read = tables.read_rows(split, columns, rows)
        faces = np.stack([decode_jpeg(jpeg, config.image_size) for jpeg in read[schema.FACE_JPEG].to_pylist()])
        real = torch.from_numpy(faces).permute(0, 3, 1, 2) / 255
        feature = torch.from_numpy(np.array(read[schema.FACE_FEATURE], np.float32))
        portrait = decoder(feature)
        for form in IMAGE_LOSSES:
            values[f"{form}_ms_ssim"].append(1 - image_loss(portrait, real, form=form, **settings))
        values["l1"].append((portrait - real).abs().mean(dim=(1, 2, 3)))
        values["psnr_db"].append(-10 * torch.log10((portrait - real).square().mean(dim=(1, 2, 3))))
        values["degrees"].append(metrics.cos_degrees(network.features(portrait), feature))
    return {name: float(torch.cat(parts).mean()) for name, parts in values.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoder_loss", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", required=True, help="URI of a run whose features stage is done")
    parser.add_argument("--epochs", type=int, help="epochs per training (default: the run's)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default: 3)")
    arguments = parser.parse_args()
    run = storage.absolute(arguments.run)
    config = stages.finished_config(run, "features")
    if arguments.epochs:
        config = override(config, {"training.decoder.epochs": arguments.epochs})
    found: dict[str, list[dict[str, float]]] = {form: [] for form in IMAGE_LOSSES}
    print("| form | seed | CPU seconds | " + " | ".join(FIGURES) + " |\n|---" + "|---" * (2 + len(FIGURES)) + "|")
    for seed in range(arguments.seeds):
        for form in IMAGE_LOSSES:
            started = time.process_time()
            changed = override(config, {"seed": seed, "decoder_loss.form": form})
            with local.in_process():
                decoder = train_decoder(changed, run)
            seconds = time.process_time() - started
            found[form].append(measure(decoder, changed, run))
            cells = " | ".join(f"{found[form][-1][name]:.4g}" for name in FIGURES)
            print(f"| {form} | {seed} | {seconds:.0f} | {cells} |", flush=True)
    wang, zhao = (found[form] for form in IMAGE_LOSSES)
    for name in FIGURES:
        differences = [second[name] - first[name] for first, second in zip(wang, zhao, strict=True)]
        spread = f" +- {statistics.stdev(differences):.2g}" if len(differences) > 1 else ""
        print(f"{name}: zhao minus wang {statistics.mean(differences):+.3g}{spread} (over seeds)")


if __name__ == "__main__":
    main()
