"""`arspm doctor`: check what a run needs on this machine, in its store and on its cluster, and say what to do."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from arspm import storage
from arspm.config import Config, uri_fields
from arspm.config.fields import BUILT_IN_NAMES
from arspm.storage.retries import first_line
from jobs import doctor_store
from jobs.speeds import MEMORY_GIB

_GIB = 1 << 30
_LEAST_DISK_GIB = 10.0  # for the cache of decoded rows, Ray's logs and spilled objects


class Check(NamedTuple):
    """The result of a check. text: what was found. advice: what to do, "" if nothing."""

    name: str
    state: Literal["OK", "warn", "fail"]
    text: str
    advice: str = ""


def examine(config: Config, uri: str | None, address: str | None) -> Iterator[Check]:
    """Yield the checks as they end. uri: where a run will be, or None. address: of the cluster's dashboard, or None."""
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("python", _python),
        ("torch", _torch),
        ("driver", functools.partial(_driver, config)),
        ("cuda", functools.partial(_cuda, config)),
        ("memory", functools.partial(_memory, config)),
        ("disk", functools.partial(_disk, config, uri)),
        ("token", _token),
        ("head", functools.partial(_head, config, address)),
        ("detector", functools.partial(_detector, config)),
        ("weights", functools.partial(_weights, config)),
    ]
    if uri is not None:
        checks += [(f"store {name}", functools.partial(_store, name, uri)) for name in doctor_store.CHECKS]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Check(name, "fail", first_line(error))


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    packages = {name: metadata.version(name) for name in ("arspm", "ray", "pyarrow")}
    return Check("python", "OK", f"{found}; {', '.join(f'{name} {version}' for name, version in packages.items())}")


def _torch() -> Check:
    import torch

    return Check("torch", "OK", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _driver(config: Config) -> Check:
    from arspm.distributed.gpus import driver_version

    version = driver_version(Path("/"), os.environ)
    if version is None:
        return Check("driver", "OK", f"no NVIDIA driver; {_without_gpu(config)}")
    return Check("driver", "OK", f"NVIDIA {version}")


def _cuda(config: Config) -> Check:
    import torch

    from arspm.distributed.gpus import driver_version, explain

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        each = ", ".join(f"{device.name} with {device.total_memory / _GIB:.0f} GiB" for device in names)
        return Check("cuda", "OK", f"CUDA {torch.version.cuda}: {each}")
    if driver_version(Path("/"), os.environ) is not None:
        return Check("cuda", "fail", explain(torch.__version__, torch.version.cuda, "no device"), "see docs/cluster.md")
    if _wants_gpu(config):
        return Check(
            "cuda", "warn", _without_gpu(config), "use a cluster with GPUs (--ray-address), or a preset for CPUs: demo"
        )
    return Check("cuda", "OK", _without_gpu(config))


def _wants_gpu(config: Config) -> bool:
    return any(getattr(group, "gpus", 0) for group in dict(config.resources).values())


def _without_gpu(config: Config) -> str:
    wants = "requests GPUs, and this machine has none" if _wants_gpu(config) else "needs no GPU"
    return f"preset {config.preset} {wants}"


def _memory(config: Config) -> Check:
    from cluster.host import memory_bytes

    found = memory_bytes() / _GIB
    needed = MEMORY_GIB.get(config.preset)
    if needed is None:
        return Check("memory", "OK", f"{found:.0f} GiB; preset {config.preset} was measured on no single machine")
    text = f"{found:.1f} GiB; preset {config.preset} takes about {needed:g} GiB"
    if found < needed:
        advice = "use a machine with more memory, another preset, or fewer workers and tasks (--set resources....)"
        return Check("memory", "fail", text, advice)
    return Check("memory", "OK", text)


def _disk(config: Config, uri: str | None) -> Check:
    cache = config.ingest.cache_folder or os.environ.get("ARSPM_CACHE") or tempfile.gettempdir()
    folders = {"cache of decoded rows": cache, "temporary files": tempfile.gettempdir()}
    if uri is not None and not storage.is_remote(uri):
        folders["run"] = uri
    free = {
        what: shutil.disk_usage(doctor_store.nearest_folder(folder)).free / _GIB for what, folder in folders.items()
    }
    text = ", ".join(f"{gib:.0f} GiB free for the {what} ({folders[what]})" for what, gib in free.items())
    if min(free.values()) < _LEAST_DISK_GIB:
        advice = f"free {_LEAST_DISK_GIB:.0f} GiB, or set ARSPM_CACHE and TMPDIR to folders of a larger disk"
        return Check("disk", "warn", text, advice)
    return Check("disk", "OK", text)


def _token() -> Check:
    from cluster.access import auth_headers, token_file

    if not auth_headers("http://127.0.0.1"):
        return Check("token", "warn", f"none in {token_file()}", "`arspm up` creates one for a head on this machine")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return Check("token", "OK", "from RAY_AUTH_TOKEN")
    mode = token_file().stat().st_mode & 0o777
    if mode & 0o077:
        advice = f"chmod 600 {token_file()}; whoever reads it can run code on the cluster"
        return Check("token", "warn", f"{token_file()} is open to other users ({mode:o})", advice)
    return Check("token", "OK", str(token_file()))


def _head(config: Config, address: str | None) -> Check:
    from cluster import client
    from cluster.head import heads_elsewhere

    if address is None:
        return Check("head", "warn", f"no Ray head{heads_elsewhere()}", "`arspm up` starts one; or pass --ray-address")
    room = client.capacity(client.connect(address))
    text = f"{address}: {room.num_cpus:g} CPUs, {room.num_gpus:g} GPUs" + (", and it grows" if room.grows else "")
    if _wants_gpu(config) and not room.num_gpus and not room.grows:
        return Check(
            "head", "fail", f"{text}; preset {config.preset} requests GPUs", "add nodes with GPUs, or use demo"
        )
    return Check("head", "OK", text)


def _detector(config: Config) -> Check:
    from arspm.media import models
    from arspm.media.detectors import make_detector

    name = config.face.detector
    if name == "yunet" and not models.is_downloaded(name):
        return Check("detector", "warn", "yunet is not on this machine", "it is downloaded when preprocess begins")
    make_detector(name)
    return Check("detector", "OK", name)


def _weights(config: Config) -> Check:
    given = {field: uri for field, uri in uri_fields(config).items() if not field.startswith("data.")}
    given = {field: uri for field, uri in given.items() if uri not in BUILT_IN_NAMES and field != "face.detector"}
    if missing := [f"{field}: {uri}" for field, uri in given.items() if not storage.exists(uri)]:
        return Check("weights", "fail", f"missing: {', '.join(missing)}", "check the paths")
    text = ", ".join(given) or "none given"
    if config.vggface.weights:
        return Check("weights", "OK", text)
    return Check("weights", "OK", f"{text}; VGGFace is trained on the run's own faces (docs/vggface.md)")


def _store(name: str, uri: str) -> Check:
    with doctor_store.single_try():
        state, text, advice = doctor_store.CHECKS[name](uri)
    return Check(f"store {name}", state, text, advice)


def as_json(checks: list[Check]) -> dict[str, Any]:
    """Return the checks as `--json` prints them."""
    return {"ok": all(check.state != "fail" for check in checks), "checks": [check._asdict() for check in checks]}
