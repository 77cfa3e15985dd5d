"""The environment variables of a local Ray head, which its jobs inherit."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.access import token_file
from cluster.host import free_port, user_name
from cluster.proxies import without_loopback

# glibc would give a training step's memory back to the system and get it again in the next step, zeroed. And it would
# give the thread that trains an arena of its own, in which nothing above 64 MiB is kept.
MEMORY_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_ARENA_MAX": "1",
}

_PRODUCT = Path(__file__).resolve().parents[1]  # the directory with this package and those beside it


def head_environment(address: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a head whose dashboard is at `address`: this process's own, with Ray's settings.

    The user's own settings take precedence over `defaults`, but not over `fixed`, on which security depends.
    extra: takes precedence over all.
    """
    own = {**os.environ, **extra}
    loopback = "lo" if sys.platform == "linux" else "lo0"
    defaults = {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",  # the only signal on which Ray Train stops in an orderly way
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # a single node has nowhere to drain to
        "RAY_enable_metrics_collection": "0",  # nothing scrapes a local head
        # At most 192 MiB per log. Workers' logs rotate only if this is set.
        "RAY_ROTATION_MAX_BYTES": str(64 << 20),
        "RAY_ROTATION_BACKUP_COUNT": "2",
        # If there are more workers than CPUs, Ray ends those that are idle for a second; the next task then waits for a
        # new worker to import torch.
        "RAY_idle_worker_killing_time_threshold_ms": "120000",
        # libgomp's threads spin for about a millisecond before they sleep. When two trainings share the cores, their
        # threads wait for each other; without the spinning both are twice as fast, and one alone up to a tenth slower.
        "GOMP_SPINCOUNT": "1000",
        **MEMORY_SETTINGS,
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the future default; otherwise every ray.init warns
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
    }
    fixed = {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # with 1, Ray replaces 127.0.0.1 by the public address
        "RAY_USAGE_STATS_ENABLED": "0",
        # With 0 alone, Ray 2.60 still reports once that it is off. No request can be sent to this URL.
        "RAY_USAGE_STATS_REPORT_URL": "off://",
        "RAY_API_SERVER_ADDRESS": address,  # for jobs that submit jobs
        "DASHBOARD_METRIC_PORT": str(free_port()),
        # Jobs run `python`, which must be this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    if not os.environ.get("RAY_AUTH_TOKEN"):
        fixed["RAY_AUTH_TOKEN_PATH"] = str(token_file())
    # In a source tree that is not installed: the head starts in another directory and would not find the product.
    if _PRODUCT.name not in ("site-packages", "dist-packages"):
        fixed["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_PRODUCT))))
    if user_name().isdecimal():  # without a name; libraries such as torch's compiler ask for one, and fail
        defaults["USER"] = user_name()
    inherited = {name: value for name, value in own.items() if name != "RAY_ADDRESS"}
    return {**defaults, **inherited, **fixed, **extra, **without_loopback(own)}
