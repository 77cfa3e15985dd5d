"""Parameters, time and peak memory of one training step of each network at the paper's size. `make bench` runs it.

Each network is measured in a process of its own: peak memory is that process's largest resident set.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch

from arspm.config import Config, Recipe
from arspm.learning import tasks
from arspm.learning.batch import Batch
from arspm.learning.train_step import Task, make_optimizer, train_step
from arspm.model import speech_portrait
from arspm.model.speech_portrait import FacePrior

STEPS = 3  # timed, after one that is not


def make_task(stage: str, config: Config, device: torch.device) -> Task:
    """The stage's task at the configuration's size with networks of random weights."""
    if stage == "vggface":
        return tasks.vggface_task(config, config.vggface.num_identities, held_out=False)
    if stage == "gender":
        return tasks.gender_task(config)
    network = speech_portrait.vggface(config, config.vggface.num_identities)
    if stage == "decoder":
        return tasks.decoder_task(config, network.to(device))
    prior = FacePrior("neutral", {"neutral": torch.randn(config.feature_dim)}).to(device)
    hidden = speech_portrait.face_decoder(config).fc1.to(device)
    return tasks.encoder_task(config, prior, hidden, network.fc8.to(device))


def make_batch(config: Config, rows: int, device: torch.device) -> Batch:
    """Random rows of the corpus's shapes."""
    return Batch(
        clip_ids=[str(row) for row in range(rows)],
        weight=torch.ones(rows, device=device),
        spectrogram=torch.randn(rows, 2, 257, 598, device=device),
        face=torch.rand(rows, 3, config.image_size, config.image_size, device=device),
        face_feature=torch.randn(rows, config.feature_dim, device=device),
        gender=torch.arange(rows, device=device) % 2,
        identity=torch.arange(rows, device=device),
    )


def measure(stage: str, rows: int, precision: str, device: torch.device) -> dict[str, object]:
    """Take `STEPS` optimisation steps of a stage; what they took, and whether loss and gradients were finite."""
    torch.manual_seed(0)
    config, recipe = Config(), Recipe(precision=precision)
    task, batch = make_task(stage, config, device), make_batch(config, rows, device)
    model = task.model.to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe)
    seconds = []
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        terms = train_step(task, model, optimizer, batch, rate=recipe.learning_rate, precision=recipe.precision)
        loss = float(terms["loss"])  # waits for the device
        seconds.append(time.perf_counter() - begun)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "stage": stage,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": rows,
        "precision": precision,
        "seconds_median": round(statistics.median(seconds[1:]), 2),
        "seconds": [round(each, 2) for each in seconds[1:]],
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else peak, 2),
        "loss": loss,
        "finite": all(bool(torch.isfinite(gradient).all()) for gradient in gradients),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_size", description=__doc__)
    parser.add_argument("stages", nargs="*", default=["encoder", "decoder", "gender", "vggface"])
    parser.add_argument("--rows", type=int, default=16, help="the batch")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--here", action="store_true", help="in this process, and print JSON")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.here:
        print(json.dumps(measure(arguments.stages[0], arguments.rows, arguments.precision, device)))
        return
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {STEPS} steps")
    for stage in arguments.stages:
        options = ["--rows", str(arguments.rows), "--precision", arguments.precision, "--here"]
        command = [sys.executable, "-m", "benchmarks.paper_size", stage, *options]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
