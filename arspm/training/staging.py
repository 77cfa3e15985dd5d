"""Stage batches: a thread reads them and copies them to the device while the training loop computes."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from arspm.training.batch import TENSORS, host_tensor
from arspm.training.columns import Picked

AHEAD = 2  # batches that are read and copied before the loop asks for them
_CLOSE_SECONDS = 10.0  # a reader that is stuck must not hold up the error that ended the loop
_NUM_BUFFERS = 2  # sets of pinned buffers: one is filled while the other is copied to the device


class _Staged(NamedTuple):
    """A batch's columns, and on CUDA the event after which their tensors may be used."""

    columns: Mapping[str, Any]
    copied: torch.cuda.Event | None


class _End(NamedTuple):
    """The source has ended, or has raised an error."""

    error: BaseException | None


class Stager(Iterator[Mapping[str, Any]]):
    """Iterates over a source's batches, up to AHEAD of them read in advance. Raises the source's own exceptions.

    On CUDA, the columns that `to_batch` reads are tensors on the device. On the CPU, batches are handed over as they
    are: a conversion in the thread would only take cores from the training step. Call `close` at the end.
    """

    def __init__(self, source: Iterator[Mapping[str, Any]], device: torch.device):
        if device.type == "cuda" and device.index is None:  # each thread has its own current device
            device = torch.device("cuda", torch.cuda.current_device())
        self._source, self._device = source, device
        self._results: SimpleQueue[_Staged | _End] = SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._closed = False
        run = contextvars.copy_context().run  # the source may depend on context variables
        self._thread = threading.Thread(target=run, args=(self._read,), name="arspm-staging", daemon=True)
        self._thread.start()

    def __next__(self) -> Mapping[str, Any]:
        result = self._results.get()
        if isinstance(result, _End):
            self._results.put(result)  # for the next call
            raise StopIteration if result.error is None else result.error
        self._room.release()
        if result.copied is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(result.copied)
            for value in result.columns.values():
                if isinstance(value, Tensor):
                    value.record_stream(stream)  # its memory is not reused before this stream has read it
        return result.columns

    def close(self) -> None:
        """End the thread, which closes the source. Waits for the batch that is being read, but not forever."""
        self._closed = True
        self._room.release()
        self._thread.join(_CLOSE_SECONDS)

    def _read(self) -> None:
        try:
            upload = _Uploader(self._device).upload if self._device.type == "cuda" else None
            while self._room.acquire() and not self._closed:
                columns = next(self._source)
                self._results.put(_Staged(columns, None) if upload is None else upload(columns))
        except StopIteration:
            self._results.put(_End(None))
        except BaseException as error:  # raised in the training loop
            self._results.put(_End(error))
        finally:
            if (close := getattr(self._source, "close", None)) is not None:
                close()


class _Uploader:
    """Copies batches to a CUDA device on a stream of its own, through pinned buffers that are reused."""

    def __init__(self, device: torch.device):
        torch.cuda.set_device(device)  # of this thread
        self._device, self._stream = device, torch.cuda.Stream(device)
        self._buffers: list[dict[str, Tensor]] = [{} for _ in range(_NUM_BUFFERS)]
        self._copied: list[torch.cuda.Event | None] = [None] * _NUM_BUFFERS
        self._next = 0

    def upload(self, columns: Mapping[str, Any]) -> _Staged:
        """Return a batch whose tensors are being copied to the device."""
        number, self._next = self._next, (self._next + 1) % _NUM_BUFFERS
        if (last := self._copied[number]) is not None:
            last.synchronize()  # the copy from these buffers; only this thread waits
        tensors = {}
        with torch.cuda.stream(self._stream):
            for name in TENSORS:
                if name in columns and not isinstance(columns[name], Tensor):  # a tensor is on the device already
                    pinned = self._pinned(self._buffers[number], name, columns[name])
                    tensors[name] = pinned.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        self._copied[number] = copied
        return _Staged({**columns, **tensors}, copied)

    @staticmethod
    def _pinned(buffers: dict[str, Tensor], name: str, values: np.ndarray | Picked) -> Tensor:
        """Return a column in pinned memory, in the buffer of its name if that has the right shape and dtype."""
        buffer, dtype = buffers.get(name), torch.from_numpy(np.empty(0, values.dtype)).dtype
        if buffer is None or buffer.shape != values.shape or buffer.dtype != dtype:
            buffer = buffers[name] = torch.empty(values.shape, dtype=dtype, pin_memory=True)
        if isinstance(values, Picked):
            values.copy_to(buffer.numpy())
            return buffer
        return buffer.copy_(host_tensor(values))
