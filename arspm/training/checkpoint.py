"""Checkpoints: self-describing folders. Weights and optimizer state are safetensors; nothing is pickled or unpickled.

model.safetensors      current weights
best.safetensors       weights of the best epoch so far
optimizer.safetensors  Adam's state, keyed "<parameter>/<key>"
progress.json          training state with history, configuration, versions, and size and hash of the other files
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from arspm import storage
from arspm.runs.provenance import versions

Number = Annotated[int, Field(ge=0)]
SumAndCount = Annotated[list[float], Field(min_length=2, max_length=2)]
MODEL, BEST, OPTIMIZER, PROGRESS = "model.safetensors", "best.safetensors", "optimizer.safetensors", "progress.json"
_SLOTS = {"step", "exp_avg", "exp_avg_sq"}  # keys of Adam's state per parameter


@dataclass
class TrainingState:
    """Position and history of a training. `fit` updates it in place; checkpoints store it as "progress".

    The next training step is step `step_in_epoch` of epoch `epoch`, both counted from 0.
    """

    epoch: Number = 0  # finished epochs
    step_in_epoch: Number = 0  # training steps taken in the current epoch
    step: Number = 0  # training steps taken in all epochs
    best_epoch: int | None = None  # the epoch whose weights are kept, counted from 1
    chosen_by: str | None = None  # the figure that it was chosen by: the objective, or train_loss
    best: float | None = None  # its value of that figure
    num_held_out: Number = 0  # rows that the objective is measured on
    epochs: list[dict[str, Any]] = field(default_factory=list)  # figures of each finished epoch
    losses: list[Annotated[list[int | float], Field(min_length=2, max_length=2)]] = field(
        default_factory=list
    )  # loss curve: [step, mean loss since the previous point]
    pending: SumAndCount = field(default_factory=lambda: [0.0, 0.0])  # sum and count of losses after the last point
    sums: dict[str, SumAndCount] = field(default_factory=dict)  # within an epoch: sum and count of its figures so far


class _Manifest(BaseModel):
    """The part of progress.json that is read back."""

    progress: TrainingState
    files: dict[str, dict[str, Any]]


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: TrainingState,
    best: Mapping[str, Tensor] | None,
    config: Mapping[str, Any],
) -> None:
    """Write a checkpoint into a folder. `best`: the weights of the best epoch, None before the first is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / MODEL, model.state_dict())
    if best is not None:
        write_weights(folder / BEST, best)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state = {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value)
        for parameter, values in optimizer.state.items()
        for key, value in values.items()
    }
    write_weights(folder / OPTIMIZER, state)
    files = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            files[path.name] = storage.describe_stream(file)
    value = {"progress": asdict(progress), "config": config, "versions": versions(), "files": files}
    (folder / PROGRESS).write_text(json.dumps(value))  # written last: it lists the other files' hashes


def upload(folder: Path, uri: str) -> None:
    """Copy a checkpoint's files to a path or URI. progress.json comes last: without it, there is no checkpoint."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == PROGRESS):
        storage.upload(file, storage.join(uri, file.name))


def download(uri: str, folder: Path) -> Path:
    """Copy a checkpoint's files into a new local folder, and return the folder."""
    folder.mkdir(parents=True)
    for name in {MODEL, BEST, OPTIMIZER, PROGRESS} & storage.files_below(uri).keys():
        with storage.local_copy(storage.join(uri, name)) as file:
            shutil.copyfile(file, folder / name)
    return folder


def verify(uri: str) -> TrainingState:
    """Return the training state of an intact checkpoint.

    Raises ValueError, with the file's URI, if a file is missing or differs from its recorded size and hash.
    """
    return _verified(uri).progress


def _verified(uri: str) -> _Manifest:
    progress_uri = storage.join(uri, PROGRESS)
    try:
        manifest = storage.read_model(progress_uri, _Manifest, "a checkpoint")
    except FileNotFoundError as error:
        raise ValueError(f"{progress_uri}: not a checkpoint ({error})") from None
    if not {MODEL, OPTIMIZER} <= manifest.files.keys() <= {MODEL, OPTIMIZER, BEST}:
        raise ValueError(f"{progress_uri}: not a checkpoint (it lists {', '.join(sorted(manifest.files)[:5])[:200]!r})")
    for name, recorded in manifest.files.items():
        file_uri = storage.join(uri, name)
        try:
            actual = storage.describe(file_uri)
        except FileNotFoundError:
            raise ValueError(f"{file_uri}: missing, though {PROGRESS} lists it") from None
        if actual != recorded:
            raise ValueError(f"{file_uri}: torn: its size or hash is not what {PROGRESS} says")
    return manifest


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[TrainingState, dict[str, Tensor] | None]:
    """Restore a model and its optimizer from a checkpoint's folder. Returns the training state and the best weights.

    Raises ValueError, with the file's path, if a file is missing, torn, or belongs to another network or optimizer.
    """
    manifest = _verified(str(folder))
    restore(model, read_weights(folder / MODEL), str(folder / MODEL))
    parameters, fused = dict(model.named_parameters()), optimizer.defaults.get("fused")
    for key, tensor in read_weights(folder / OPTIMIZER).items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"{folder / OPTIMIZER}: {name[:100]} is not a parameter of this network")
        parameter = parameters[name]
        if slot not in _SLOTS or tensor.shape != (() if slot == "step" else parameter.shape):
            raise ValueError(f"{folder / OPTIMIZER}: {slot[:100]!r} of {name} is not a state of this optimizer")
        if slot != "step":
            # In the parameter's memory format: fused Adam matches elements by memory address, not by index.
            optimizer.state[parameter][slot] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        else:  # Adam keeps its step counter on the CPU, unless it is fused
            optimizer.state[parameter][slot] = tensor.to(parameter.device if fused else "cpu")
    if any(state.keys() != _SLOTS for state in optimizer.state.values()):
        raise ValueError(
            f"{folder / OPTIMIZER}: a parameter's state is incomplete; it needs {', '.join(sorted(_SLOTS))}"
        )
    best = read_weights(folder / BEST) if BEST in manifest.files else None
    if best is not None:
        _check(model, best, str(folder / BEST))
    return manifest.progress, best


def restore(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a model. Raises ValueError, with `source`, if names, shapes or dtypes are not the model's."""
    _check(model, weights, source)
    model.load_state_dict(dict(weights))


def _check(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own.keys() - weights.keys()]
    problems += [f"{name[:100]} is not of this network" for name in weights.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    problems += [
        f"{name} is {weights[name].dtype} instead of {own[name].dtype}"
        for name in own.keys() & weights.keys()
        if own[name].dtype != weights[name].dtype
    ]
    if problems:
        raise ValueError(f"{source}: {'; '.join(sorted(problems)[:5])}{' ...' if len(problems) > 5 else ''}")


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file."""
    safetensors.torch.save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def read_weights(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, or only those in `names`.

    Raises ValueError, with the path, if the file is not readable or has no tensor of that name.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (OSError, safetensors.SafetensorError) as error:
        message = " ".join(str(error).split())[:300]
        message = message if message.isprintable() else repr(message)
        raise ValueError(f"{path}: not readable as safetensors ({message})") from None
