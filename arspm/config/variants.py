"""The models that the paper compares (Table 4, sections 3.2, 3.3 and 4.3.2), as changes of a configuration."""

from __future__ import annotations

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """A named model. `changes`: fields of the configuration. `published`: whether Table 4 has a row of this name."""

    description: str
    changes: dict[str, Any]
    published: bool = False


def _model(description: str, *, prior: str, fusion: str, published: bool = False, **changes: Any) -> Variant:
    """Return a variant that sets every field the paper compares, whatever the configuration that it changes."""
    fields = {
        "prior.kind": prior,
        "speech_encoder.architecture": "arspm",
        "speech_encoder.cbam": "channel_first",
        "speech_encoder.fusion": fusion,
        "speech_encoder.head": "fc2",
        "speech_encoder.fc2_init": "random",
        "speech_encoder.prior_weight": "one",
        "ingest.sex": "any",
        "loss.lambda1": 1.0,
        "loss.lambda2": 0.04,
        "loss.lambda3": 1.2,
        "loss.identity": "cosine",
    }
    return Variant(description, fields | {name.replace("__", "."): value for name, value in changes.items()}, published)


VARIANTS = {
    "non-prior": _model("no prior: Fc2 gives the complete face feature", prior="none", fusion="fc", published=True),
    "neutral": _model("the mean face is added to Fc2's output", prior="neutral", fusion="sum", published=True),
    "neutral+fc": _model("the mean face is added before Fc2", prior="neutral", fusion="fc", published=True),
    "gender": _model(
        "the mean face of the predicted gender is added to Fc2's output", prior="gender", fusion="sum", published=True
    ),
    "gender+fc": _model(
        "the mean face of the predicted gender is added before Fc2", prior="gender", fusion="fc", published=True
    ),
    "female": _model(
        "the female mean face, trained and evaluated on female speakers only",
        prior="female",
        fusion="sum",
        published=True,
    ),
    "male": _model(
        "the male mean face, trained and evaluated on male speakers only", prior="male", fusion="sum", published=True
    ),
    "speech2face": _model(
        "the peer: encoder and loss of Oh et al., no prior, no CBAM",
        prior="none",
        fusion="fc",
        speech_encoder__architecture="speech2face",
        speech_encoder__cbam="none",
        loss__lambda1=0.025,
        loss__lambda2=1.0,
        loss__lambda3=200.0,
        loss__identity="distillation",
    ),
    "neutral-residual": _model(
        "neutral with Fc2 initialised to zero, so training starts at the mean face",
        prior="neutral",
        fusion="sum",
        speech_encoder__fc2_init="zero",
    ),
    "adaptive": _model(
        "neutral with a learned weight between 0 and 1 on the mean face, for each clip",
        prior="neutral",
        fusion="sum",
        speech_encoder__prior_weight="learned",
    ),
    "constant": _model(
        "control: a random constant with the mean face's norm is added to Fc2's output", prior="constant", fusion="sum"
    ),
    **{
        f"non-prior-{sex}": _model(
            f"control for {sex}: no prior, trained and evaluated on {sex} speakers only",
            prior="none",
            fusion="fc",
            ingest__sex=sex,
        )
        for sex in ("female", "male")
    },
    "neutral-bare": _model(
        "the mean face is added without Fc2", prior="neutral", fusion="sum", speech_encoder__head="none"
    ),
    "distillation": _model(
        "neutral+fc with the distillation loss (T = 2)", prior="neutral", fusion="fc", loss__identity="distillation"
    ),
    **{
        f"cbam-{order.replace('_', '-')}": _model(
            f"neutral+fc with CBAM {order} in the speech encoder",
            prior="neutral",
            fusion="fc",
            speech_encoder__cbam=order,
        )
        for order in ("spatial_first", "parallel", "channel_only", "none")
    },
    **{
        name: _model(
            f"neutral+fc with {name} in place of Table 3's convolutions",
            prior="neutral",
            fusion="fc",
            speech_encoder__architecture=name,
        )
        for name in ("resnet18", "resnet34", "densenet121")
    },
}

TABLE4 = ("non-prior", "neutral", "neutral+fc", "gender", "gender+fc", "female", "male", "speech2face")
"""The default variants of `arspm ablation`."""
