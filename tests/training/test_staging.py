"""Batches that a thread reads in advance."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import torch

from arspm.training.checkpoint import TrainingState
from arspm.training.staging import AHEAD, Stager
from arspm.training.train_step import NonFiniteLoss
from tests.training.random_data import make_task, smoke, stream, train

CPU = torch.device("cpu")
CONTEXT: ContextVar[str] = ContextVar("context")


def staging_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "arspm-staging"]


def wait_until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("timed out")


def test_batches_come_unchanged_and_in_order() -> None:
    batches: list[dict[str, Any]] = [{"number": number} for number in range(50)]
    staged = Stager(iter(batches), CPU)
    assert all(found is batch for found, batch in zip(staged, batches, strict=True))
    assert list(staged) == []  # as with any finished iterator
    staged.close()
    assert staging_threads() == []


def test_a_few_batches_are_read_in_advance_and_not_more() -> None:
    read = []

    def source() -> Iterator[dict[str, Any]]:
        for number in range(10):
            read.append(number)
            yield {"number": number}

    staged = Stager(source(), CPU)
    for number in range(3):
        assert next(staged) == {"number": number}
        wait_until(lambda: len(read) == number + 1 + AHEAD)  # noqa: B023
        time.sleep(0.05)
        assert len(read) == number + 1 + AHEAD
    staged.close()


def test_an_error_of_the_source_is_raised_unchanged_after_the_batches_before_it() -> None:
    error = OSError("storage is away")

    def source() -> Iterator[dict[str, Any]]:
        yield {"number": 0}
        yield {"number": 1}
        raise error

    staged = Stager(source(), CPU)
    assert [next(staged)["number"], next(staged)["number"]] == [0, 1]
    for _ in range(2):
        with pytest.raises(OSError, match="storage is away") as caught:
            next(staged)
        assert caught.value is error
    staged.close()
    assert staging_threads() == []


def test_the_source_is_closed_in_its_thread() -> None:
    closed_in = []

    def source() -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield {}
        finally:
            closed_in.append(threading.current_thread().name)

    staged = Stager(source(), CPU)
    next(staged)
    staged.close()
    assert closed_in == ["arspm-staging"]
    assert staging_threads() == []


def test_the_source_sees_the_context_of_the_training_loop() -> None:
    CONTEXT.set("in process")
    staged = Stager(({"context": CONTEXT.get("none")} for _ in range(1)), CPU)
    assert next(staged) == {"context": "in process"}
    staged.close()


def test_fit_reads_the_batches_in_a_thread_that_ends_with_it() -> None:
    """Also if the loop fails, if the source fails, and if the caller stops asking for reports."""
    recipe = smoke().training.gender
    names = set()

    def watched(progress: TrainingState) -> Iterator[dict[str, Any]]:
        for batch in stream("gender", recipe.epochs, progress):
            names.add(threading.current_thread().name)
            yield batch

    def failing(progress: TrainingState) -> Iterator[dict[str, Any]]:
        yield from list(watched(progress))[:3]
        raise OSError("storage is away")

    list(train(make_task("gender", smoke()), recipe, "gender", batches=watched))
    assert names == {"arspm-staging"}
    assert staging_threads() == []

    task = make_task("gender", smoke())
    broken = task._replace(loss=lambda model, batch: {"loss": torch.nan * model(batch.spectrogram).mean()})
    with pytest.raises(NonFiniteLoss):
        list(train(broken, recipe, "gender", batches=watched))
    assert staging_threads() == []

    with pytest.raises(OSError, match="storage is away"):
        list(train(make_task("gender", smoke()), recipe, "gender", batches=failing))
    assert staging_threads() == []

    reports = train(make_task("gender", smoke()), recipe, "gender", batches=watched)
    next(reports)
    assert len(staging_threads()) == 1
    del reports
    assert staging_threads() == []


def test_fit_reports_how_long_it_waited_for_each_batch() -> None:
    """Not how long the thread did, which reads while the step runs."""
    recipe = smoke().training.gender.model_copy(update={"epochs": 1})
    task, waits = make_task("gender", smoke()), []

    def slow(progress: TrainingState) -> Iterator[dict[str, Any]]:
        for batch in stream("gender", 1, progress):
            time.sleep(0.1)
            yield batch

    def step(model: Any, batch: Any) -> dict[str, torch.Tensor]:
        time.sleep(0.3)
        return task.loss(model, batch)

    [report] = train(task._replace(loss=step), recipe, "gender", batches=slow, on_wait=waits.append)
    assert len(waits) == 6  # four training batches and two of validation
    assert waits[0] >= 0.09
    assert max(waits[1:4]) < 0.1
    train_seconds = 4 * recipe.global_batch_size / report.figures["clips_per_second"]
    assert report.figures["data_wait"] == pytest.approx(sum(waits[:4]) / train_seconds, rel=1e-3)
