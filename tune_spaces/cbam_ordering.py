"""In which order the speech encoder attends to channels and to frequency and time, if it does (reading D)."""

from __future__ import annotations

from tune_spaces.space import Choice, Space

SPACE: Space = {
    "speech_encoder.cbam": Choice(["channel_first", "spatial_first", "parallel", "channel_only", "none"]),
}
