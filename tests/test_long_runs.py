"""Memory use over many epochs and over a large corpus, measured by benchmarks/long_runs.py."""

from __future__ import annotations

import pytest

from benchmarks.long_runs import DATA, DRIVER, STORE, STORE_BYTES, TRAINING, Memory, run

MIB = 2**20


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
def test_memory_is_flat_over_thirty_epochs_and_over_a_corpus_twenty_times_larger() -> None:
    """A process that held the corpus would need 320 MiB more; one that kept a clip of each step, 600 MiB more."""
    found, sizes = run(speakers=14, times=20, epochs=30)
    more = sizes["large"] - sizes["small"]
    assert more > 300
    for stage, large in found["large"].items():
        small: Memory = found["small"][stage]
        for kind in (DRIVER, TRAINING, DATA):
            if small.peak(kind) or large.peak(kind):
                assert small.peak(kind) > 100, f"{stage}: no process of kind {kind} was observed"
                assert large.peak(kind) - small.peak(kind) < more / 2, f"{stage}: {kind}"
        assert large.peak(STORE) < 0.8 * STORE_BYTES / MIB, stage  # prefetched rows
    epochs = found["large"]["encoder"]
    for kind in (DRIVER, TRAINING, DATA):
        course = epochs.course(kind)
        assert len(course) == 10
        assert course[-1] < 1.1 * max(course[2:5]), f"{kind}: {course}"
    assert max(epochs.course(STORE)) > 0, "the object store was always empty"
