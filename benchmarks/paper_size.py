"""Measures one training step of each network at the paper's size: `python -m benchmarks.paper_size`.

Prints a line about the machine, then one JSON object per network: parameters, batch size, step times in seconds, peak
memory in GiB, the last loss. Each network is measured in its own process; without a GPU, peak memory is that process's
largest resident set. Stops with an error if a loss or a gradient is not finite, or if a network needs more than
--limit-gib.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from arspm.config import Config, Recipe, override
from arspm.model import speech_portrait
from arspm.model.speech_portrait import FacePrior
from arspm.training import tasks
from arspm.training.batch import Batch
from arspm.training.step_graph import StepGraph
from arspm.training.train_step import Task, make_optimizer, step_gradients, train_step
from benchmarks import results

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # name: stage, changes to the paper's configuration
    "encoder": ("encoder", {}),
    "encoder-speech2face": ("encoder", {"speech_encoder.architecture": "speech2face", "prior.kind": "none"}),
    "encoder-resnet18": ("encoder", {"speech_encoder.architecture": "resnet18"}),
    "encoder-resnet34": ("encoder", {"speech_encoder.architecture": "resnet34"}),
    "encoder-densenet121": ("encoder", {"speech_encoder.architecture": "densenet121"}),
    "decoder": ("decoder", {}),
    # With five scales, MS-SSIM allows a window of at most 7 for 112 pixels.
    "decoder-112": ("decoder", {"face_decoder.as_printed": True, "decoder_loss.ms_ssim_window": 7}),
    "gender": ("gender", {}),
    "vggface": ("vggface", {}),
}


def make_task(stage: str, config: Config, device: torch.device) -> Task:
    """Return the stage's task at the configuration's size, with randomly initialised networks."""
    if stage == "vggface":
        return tasks.vggface_task(config, config.vggface.num_identities, held_out=False)
    if stage == "gender":
        return tasks.gender_task(config)
    network = speech_portrait.vggface(config, config.vggface.num_identities)
    if stage == "decoder":
        return tasks.decoder_task(config, network.to(device))
    prior = FacePrior(config.prior.kind, {"neutral": torch.randn(config.feature_dim)}).to(device)
    hidden = speech_portrait.face_decoder(config).fc1.to(device)
    return tasks.encoder_task(config, prior, hidden, network.fc8.to(device))


def make_batch(config: Config, rows: int, device: torch.device) -> Batch:
    """Return a batch of random values in the corpus's shapes."""
    return Batch(
        clip_ids=[str(row) for row in range(rows)],
        weight=torch.ones(rows, device=device),
        spectrogram=torch.randn(rows, 2, 257, 598, device=device),
        face=torch.rand(rows, 3, config.image_size, config.image_size, device=device),
        face_feature=torch.randn(rows, config.feature_dim, device=device),
        gender=torch.arange(rows, device=device) % 2,
        identity=torch.arange(rows, device=device),
    )


def measure(
    name: str,
    rows: int,
    steps: int,
    recipe: Recipe,
    device: torch.device,
    config: Config | None = None,
    *,
    graph: bool = False,
) -> dict[str, Any]:
    """Run optimisation steps of a network and return the figures. `graph`: replay them as a CUDA graph.

    An extra first step, which creates Adam's state and the graph, is not timed.
    """
    torch.manual_seed(0)
    stage, changes = NETWORKS[name]
    config = override(config or Config(), changes)
    task, batch = make_task(stage, config, device), make_batch(config, rows, device)
    model = task.model.to(device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, recipe)
    wrapped = torch.compile(model) if recipe.compile else model
    compute: Callable[[Batch], dict[str, torch.Tensor]] = partial(
        step_gradients, task, wrapped, precision=recipe.precision
    )
    if graph:
        compute = StepGraph(compute, model)
    seconds, losses = [], []
    for _ in range(steps + 1):
        started = time.perf_counter()
        terms = train_step(compute, optimizer, batch, rate=recipe.learning_rate)
        losses.append(float(terms["loss"]))  # waits for the device
        seconds.append(time.perf_counter() - started)
    gradients = [parameter.grad for parameter in model.parameters()]
    finite = all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "network": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows": rows,
        "precision": recipe.precision,
        "compile": recipe.compile,
        "graph": graph,
        "seconds_median": float(f"{statistics.median(seconds[1:]):.3g}"),
        "seconds": [float(f"{each:.3g}") for each in seconds[1:]],
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else peak, 2),
        "loss": losses[-1],
        "finite": finite and all(map(math.isfinite, losses)),
    }


def measure_in_process(name: str, options: list[str], limit_gib: float) -> str:
    """Measure a network in a new process and return the figures as JSON.

    Raises SystemExit with one line if the process fails, a value is not finite or the memory exceeds the limit.
    """
    command = [sys.executable, "-m", "benchmarks.paper_size", name, *options, "--here"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed, possibly for lack of memory"])[-1]
        raise SystemExit(f"{name}: the measurement ended with status {done.returncode}: {last}")
    figures = json.loads(done.stdout)
    if not figures["finite"]:
        raise SystemExit(f"{name}: a loss or a gradient is missing or not finite; the last loss is {figures['loss']}")
    if figures["peak_gib"] > limit_gib:
        raise SystemExit(f"{name}: a step of {figures['rows']} rows took {figures['peak_gib']} GiB, over {limit_gib:g}")
    return json.dumps(figures)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_size", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", default=list(NETWORKS), help=f"any of {', '.join(NETWORKS)} (default: all)"
    )
    parser.add_argument("--rows", type=int, default=16, help="batch size (default: 16)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps (default: 3)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="precision of training (default: fp32)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    parser.add_argument("--graph", action="store_true", help="replay the steps as a CUDA graph (needs a GPU)")
    parser.add_argument("--limit-gib", type=float, default=24.0, help="memory limit per network (default: 24)")
    parser.add_argument(
        "--here", action="store_true", help="measure one network in this process, without a memory limit"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the results there")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.networks if name not in NETWORKS]:
        parser.error(f"there is no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    if arguments.rows < 2 or arguments.steps < 1:
        parser.error("--rows must be at least 2, for BatchNorm, and --steps at least 1")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows, steps = arguments.rows, arguments.steps
    if arguments.here:
        recipe = Recipe(precision=arguments.precision, compile=arguments.compile)
        print(json.dumps(measure(arguments.networks[0], rows, steps, recipe, device, graph=arguments.graph)))
        return
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {steps} steps", flush=True)
    options = ["--rows", str(rows), "--steps", str(steps), "--precision", arguments.precision]
    options += [f"--{name}" for name in ("compile", "graph") if getattr(arguments, name)]
    figures = []
    for each in arguments.networks:
        line = measure_in_process(each, options, arguments.limit_gib)
        print(line, flush=True)
        figures.append(json.loads(line))
    results.write(arguments.json, figures, {})


if __name__ == "__main__":
    main()
