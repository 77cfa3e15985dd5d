"""Checkpoints: self-describing directories. Weights and optimizer state are safetensors; nothing is ever unpickled.

model.safetensors      the weights now
best.safetensors       the weights of the best epoch so far
optimizer.safetensors  "<parameter>/<key>"
progress.json          where training is, its history, the configuration, the versions, and a hash of each file
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
from arspm.runs import stages

Number = Annotated[int, Field(ge=0)]
SumAndCount = Annotated[list[float], Field(min_length=2, max_length=2)]
MODEL, BEST, OPTIMIZER, PROGRESS = "model.safetensors", "best.safetensors", "optimizer.safetensors", "progress.json"
_SLOTS = {"step", "exp_avg", "exp_avg_sq"}  # Adam's state of a parameter


@dataclass
class TrainingState:
    """Where training is. `epoch` and `step_in_epoch` say what comes next; `step` counts all steps taken."""

    epoch: Number = 0
    step_in_epoch: Number = 0
    step: Number = 0
    best: float | None = None  # the objective's best value
    best_epoch: int | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)  # figures of each finished epoch
    losses: list[Annotated[list[int | float], Field(min_length=2, max_length=2)]] = field(
        default_factory=list
    )  # [step, mean loss since the one before]
    pending: SumAndCount = field(default_factory=lambda: [0.0, 0.0])  # sum and count of losses not yet in `losses`
    sums: dict[str, SumAndCount] = field(default_factory=dict)  # sum and count of this epoch's figures, amid it


class _Saved(BaseModel):
    """What `load` needs of PROGRESS."""

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
    """Write a checkpoint. `best`: the best epoch's weights."""
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
    value = {"progress": asdict(progress), "config": config, "versions": stages.versions(), "files": files}
    (folder / PROGRESS).write_text(json.dumps(value))  # last: it vouches for the others


def upload(folder: Path, place: str) -> None:
    """Copy a checkpoint to a path or URI, PROGRESS last: without it a place holds no checkpoint."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == PROGRESS):
        storage.upload(file, storage.join(place, file.name))


def download(place: str, folder: Path) -> Path:
    """Copy a checkpoint's files into a new local folder, which is returned."""
    folder.mkdir(parents=True)
    for name in {MODEL, BEST, OPTIMIZER, PROGRESS} & storage.files_below(place).keys():
        with storage.local_copy(storage.join(place, name)) as file:
            shutil.copyfile(file, folder / name)
    return folder


def verify(place: str) -> TrainingState:
    """The progress of a checkpoint that is whole. Raises ValueError, naming the file, else."""
    return _verified(place).progress


def _verified(place: str) -> _Saved:
    vouching = storage.join(place, PROGRESS)
    try:
        saved = storage.read_model(vouching, _Saved, "a checkpoint")
    except FileNotFoundError as error:
        raise ValueError(f"{vouching}: not a checkpoint ({error})") from None
    if not {MODEL, OPTIMIZER} <= saved.files.keys() <= {MODEL, OPTIMIZER, BEST}:
        raise ValueError(f"{vouching}: not a checkpoint (it vouches for other files)")
    for name, described in saved.files.items():
        uri = storage.join(place, name)
        try:
            found = storage.describe(uri)
        except FileNotFoundError:
            raise ValueError(f"{uri}: missing, though {PROGRESS} names it") from None
        if found != described:
            raise ValueError(f"{uri}: torn: its size or hash is not what {PROGRESS} says")
    return saved


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[TrainingState, dict[str, Tensor] | None]:
    """Restore a checkpoint into a model and its optimizer; the progress and the best weights.

    Raises ValueError, naming the file, for one that is missing, torn or of another network.
    """
    saved = _verified(str(folder))
    progress, files = saved.progress, saved.files
    restore(model, read_weights(folder / MODEL), str(folder / MODEL))
    parameters, fused = dict(model.named_parameters()), optimizer.defaults.get("fused")
    for key, tensor in read_weights(folder / OPTIMIZER).items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"{folder / OPTIMIZER}: {name[:100]} is not of this network")
        parameter = parameters[name]
        if slot not in _SLOTS or tensor.shape != (() if slot == "step" else parameter.shape):
            raise ValueError(f"{folder / OPTIMIZER}: {slot[:100]!r} of {name} is not of this optimizer")
        if slot != "step":
            # In the parameter's memory format: the fused optimizer pairs numbers by where they lie.
            optimizer.state[parameter][slot] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        else:  # Adam's step counter, which lives on the CPU unless the optimizer is fused
            optimizer.state[parameter][slot] = tensor.to(parameter.device if fused else "cpu")
    if any(state.keys() != _SLOTS for state in optimizer.state.values()):
        raise ValueError(f"{folder / OPTIMIZER}: not all of a parameter's state")
    best = read_weights(folder / BEST) if BEST in files else None
    if best is not None:
        _check(model, best, str(folder / BEST))
    return progress, best


def restore(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a model. Raises ValueError, naming the source, when they are another network's."""
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
        f"{name} is of {weights[name].dtype} instead of {own[name].dtype}"
        for name in own.keys() & weights.keys()
        if own[name].dtype != weights[name].dtype
    ]
    if problems:
        raise ValueError(f"{source}: {'; '.join(sorted(problems)[:5])}{' ...' if len(problems) > 5 else ''}")


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    safetensors.torch.save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def read_weights(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or just those named. Raises ValueError, naming the file, if it is none."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (OSError, safetensors.SafetensorError) as error:
        told = " ".join(str(error).split())[:300]
        told = told if told.isprintable() else repr(told)
        raise ValueError(f"{path}: not readable as safetensors ({told})") from None
