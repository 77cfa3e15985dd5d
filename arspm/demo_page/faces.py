"""What the page shows of a recording: the portrait, the prior, and the mean faces that ignore the voice. No gradio."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from arspm import SpeechPortrait, storage
from arspm.evaluation.metrics import cos_degrees
from arspm.export import folder
from arspm.media.audio import spectrogram
from arspm.portrait import Recording, to_pixels
from arspm.training import artifacts

LIMITS = (
    "A portrait is an average-looking face that correlates with a voice. It identifies no one: many people have such a "
    "voice, and none of them need look like this. Do not look for anyone by it, and do not show it as somebody's "
    "likeness."
)
_MEANS = {"neutral": "mean face of everyone", "female": "mean face of women", "male": "mean face of men"}


class Face(NamedTuple):
    """A picture on the page. `degrees`: angle between its feature and the portrait's; None for the portrait."""

    title: str
    note: str
    image: Image.Image
    degrees: float | None = None


def load_means(uri: str) -> dict[str, Tensor]:
    """Return the mean face features of a run or an export: "neutral" and, if there were labels, "female" and "male"."""
    location = storage.absolute(uri)
    return folder.read_priors(location) if folder.is_export(location) else artifacts.load_priors(location)


@torch.no_grad()
def draw_faces(model: SpeechPortrait, means: Mapping[str, Tensor], recording: Recording) -> list[Face]:
    """Return the portrait of a recording, then its prior, then the other mean faces, all as the decoder draws them.

    Raises ValueError, in one line, if the recording cannot be used: silent, too short, no recording, ...
    """
    waveforms = torch.from_numpy(model.waveform(recording))[None]
    feature = model.features(waveforms)[0].cpu()
    prior = model.network.prior(spectrogram(waveforms.to(model.device)))
    shown: list[tuple[str, str, Tensor]] = [("Portrait", "drawn from the voice", feature)]
    if prior is not None:
        prior = prior.reshape(-1).cpu()
        shown.append(("Prior", _describe_prior(model.config.prior.kind, prior, means), prior))
    for name in (name for name in _MEANS if name in means):
        if prior is None or not torch.equal(means[name], prior):
            shown.append(("Baseline", f"{_MEANS[name]}; it ignores the voice", means[name]))
    features = torch.stack([each.float() for _, _, each in shown])
    degrees = cos_degrees(features, feature.expand_as(features)).tolist()
    images = to_pixels(model.portraits(features))
    return [
        Face(title, note, Image.fromarray(image), angle if number else None)
        for number, ((title, note, _), image, angle) in enumerate(zip(shown, images, degrees, strict=True))
    ]


def faces_html(faces: list[Face]) -> str:
    """Return the pictures with their titles, followed by the limits, as HTML that loads nothing else."""
    figures = f'<div class="faces">{"".join(map(_figure, faces))}</div>' if faces else ""
    return f'<div>{figures}<p class="limits">{html.escape(LIMITS)}</p></div>'


def problem_html(reason: str) -> str:
    """Return a one-line reason why nothing was drawn, as HTML."""
    return f'<p class="problem" role="alert">{html.escape(reason)}</p>'


def _describe_prior(kind: str, prior: Tensor, means: Mapping[str, Tensor]) -> str:
    if kind == "constant":
        return "a random direction, the same for every voice"
    face = next((text for name, text in _MEANS.items() if name in means and torch.equal(means[name], prior)), kind)
    return (
        f"{face}, chosen by the sex that this voice seems to have" if kind == "gender" else f"{face}, for every voice"
    )


def _figure(face: Face) -> str:
    data = io.BytesIO()
    face.image.save(data, "PNG")
    picture = base64.b64encode(data.getvalue()).decode()
    angle = "" if face.degrees is None else f"<br>{face.degrees:.1f}° from the portrait's feature"
    title, note = html.escape(face.title), html.escape(face.note)
    return (
        f'<figure><img alt="{title}: {note}" src="data:image/png;base64,{picture}">'
        f"<figcaption><b>{title}</b><br>{note}{angle}</figcaption></figure>"
    )
