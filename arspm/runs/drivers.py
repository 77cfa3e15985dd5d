"""The drivers of a run: a record in storage of the latest chain, ablation and study, and how it ended.

`<run>/_drivers/<name>.json` is written when a driver is submitted or begins, and completed when it ends. So a driver
that died is seen from any terminal, even if the cluster that it ran on is gone. A sweep needs no record: its job writes
its state into its own folder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from arspm import storage
from arspm.runs import lease, stages
from arspm.storage.retries import first_line

FOLDER = "_drivers"
CHAIN, ABLATION, STUDY = "chain", "ablation", "study-"  # names of drivers; a study's own name follows the last
FINISHED = "finished"  # how a driver ended that has done everything


class Planned(BaseModel):
    """A model that an ablation trains: its name in job ids, its run, and the fingerprints of its own stages."""

    name: str
    run: str  # relative to the ablation's run, "" for that run itself
    fingerprints: dict[str, str]


class Driver(BaseModel):
    """A driver of a run.

    job: the id of its job on the cluster, "" if it runs in the foreground. cluster, where, user: as in `lease.Holder`.
    since: when it was submitted or began; Unix time. member: its share in the run's lease, "" before it begins.
    ended: Unix time, None before. how: how it ended. models: what an ablation trains.
    """

    model_config = ConfigDict(extra="ignore")
    name: str
    cluster: str
    where: str
    user: str = ""
    job: str = ""
    since: float
    member: str = ""
    ended: float | None = None
    how: str = ""
    models: list[Planned] = []


def write(run: str, driver: Driver) -> None:
    storage.write_bytes(_file(run, driver.name), (driver.model_dump_json(indent=2) + "\n").encode())


def read(run: str, name: str) -> Driver | None:
    """Return the record of the latest driver of this name, or None. Raises ValueError for an invalid file."""
    uri = _file(run, name)
    if not storage.exists(uri):
        return None
    return storage.read_model(uri, Driver, "the record of a driver; remove it")


def names(run: str) -> list[str]:
    """Return the names of the drivers of which a run has a record, the chain first."""
    found = [path.removesuffix(".json") for path in storage.files_below(storage.join(run, FOLDER)) if "/" not in path]
    return sorted(found, key=lambda name: (name != CHAIN, name))


@contextlib.contextmanager
def submitting(run: str, name: str, holder: lease.Holder, job: str, models: Sequence[Planned] = ()) -> Iterator[None]:
    """Record a driver before the block, which submits its job, and that it failed if the block does."""
    driver = Driver(name=name, **holder._asdict(), job=job, since=time.time(), models=list(models))
    write(run, driver)  # not afterwards, when the driver may have begun
    try:
        yield
    except BaseException as error:
        write(run, driver.model_copy(update={"ended": time.time(), "how": f"failed: {first_line(error)}"}))
        raise


class Ending:
    """How a driver ends: set `how` before the block of `driving` ends."""

    how = ""


@contextlib.contextmanager
def driving(
    run: str,
    name: str,
    holder: lease.Holder,
    held: lease.Lease,
    *,
    job: str = "",
    models: Sequence[Planned] = (),
) -> Iterator[Ending]:
    """Record this process as the driver during the block, and how it ended afterwards.

    An exception is recorded with its first line. The end is not recorded if another driver has begun meanwhile.
    """
    driver = Driver(
        name=name,
        **holder._asdict(),
        job=job,
        since=time.time(),
        member=held.member,
        models=list(models),
    )
    write(run, driver)
    ending = Ending()
    try:
        yield ending
    except BaseException as error:
        ending.how = how_of(error)
        raise
    finally:
        with contextlib.suppress(Exception):  # otherwise storage shows no sign of life, which is enough
            now = read(run, name)
            if now is not None and now.member == held.member:
                write(run, driver.model_copy(update={"ended": time.time(), "how": ending.how}))


def how_of(error: BaseException) -> str:
    """Return how a driver ended that this error ended."""
    return "stopped" if isinstance(error, KeyboardInterrupt) else f"failed: {first_line(error)}"


def _file(run: str, name: str) -> str:
    return storage.join(stages.parent_run(run), FOLDER, f"{name}.json")
