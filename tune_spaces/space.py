"""What a space file imports, and all that can be done with a space.

    from tune_spaces.space import Choice, LogUniform, Space

    SPACE: Space = {
        "loss.lambda1": LogUniform(0.1, 10),
        "speech_encoder.cbam": Choice(["channel_first", "none"]),
        ("prior.kind", "speech_encoder.fusion"): Choice({"none": ("none", "fc"), "neutral": ("neutral", "sum")}),
    }

A *dimension* is one entry. Its name is the field's name; fields that vary together are joined by "+". A *sample* gives
every dimension a number or a label, so it is plain JSON.
"""

from __future__ import annotations

from tune_spaces.check import check
from tune_spaces.domains import Choice, Dimension, Domain, Label, LogUniform, Space, Uniform, dimensions
from tune_spaces.files import load, shipped
from tune_spaces.packing import describe, pack, unpack
from tune_spaces.samples import Sample, changes, grid, random_samples, sample_of

__all__ = [
    "Choice",
    "Dimension",
    "Domain",
    "Label",
    "LogUniform",
    "Sample",
    "Space",
    "Uniform",
    "changes",
    "check",
    "describe",
    "dimensions",
    "grid",
    "load",
    "pack",
    "random_samples",
    "sample_of",
    "shipped",
    "unpack",
]
