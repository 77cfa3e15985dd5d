"""The order of channel and spatial attention (CBAM) in the speech encoder, or none (reading D)."""

from __future__ import annotations

from tune_spaces.space import Choice, Space

SPACE: Space = {
    "speech_encoder.cbam": Choice(["channel_first", "spatial_first", "parallel", "channel_only", "none"]),
}
