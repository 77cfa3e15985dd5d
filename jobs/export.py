"""Write a run's trained model as one folder, which needs neither the run nor Ray."""

from __future__ import annotations

from typing import Any

from arspm.export import folder
from arspm.report.model_card import model_card
from arspm.runs import stages
from arspm.training.artifacts import load_priors, load_speech_portrait


def export(run: str, dest: str, *, onnx: bool = True) -> dict[str, Any]:
    """Write the model of a run into a folder, and return the content of its `export.json`.

    Raises FileNotFoundError if the encoder is not trained, and ValueError, before anything is written, if the folder
    has other files, if a stage before the encoder was run again, or if an ONNX file computes something else than torch.
    """
    folder.require_free(dest)
    config = stages.finished_config(run, "encoder")
    done = stages.success(run, "encoder")
    assert done is not None
    if again := [
        stage for stage, digest in stages.upstream(run, "encoder").items() if digest != done.upstream.get(stage)
    ]:
        raise ValueError(f"{run}: {', '.join(again)} was run after the encoder; `arspm submit` trains it again")
    network, priors = load_speech_portrait(run, config), load_priors(run)
    name = dest.rstrip("/").rpartition("/")[2]
    return folder.write(
        dest,
        network,
        priors,
        config,
        card=model_card(config, run, name),
        source={"encoder": done.fingerprint, "preset": config.preset},
        onnx=onnx,
    )
