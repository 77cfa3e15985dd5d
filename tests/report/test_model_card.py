"""The model card, as Hugging Face's library reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from arspm import storage
from arspm.report.gather import gather
from arspm.report.model_card import model_card
from arspm.runs import stages
from tests.report.finished_run import Run, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path)


def report(run: Run) -> None:
    storage.write_json(f"{run.uri}/report/metrics.json", gather(run.config, run.uri))


def test_the_front_matter_has_the_figures_with_their_intervals(run: Run):
    report(run)
    card = ModelCard(model_card(run.config, run.uri, "my-model"), ignore_metadata_errors=False)
    assert (card.data.library_name, card.data.license) == ("arspm", "unknown")
    assert "speech-to-face" in card.data.tags
    found = {each.metric_type: each for each in card.data.eval_results}
    row = run.evaluated["table4"][0]
    assert set(found) == {"cos_degrees", "l2", "portrait_cos_degrees"}
    for name, each in found.items():
        assert each.metric_value == pytest.approx(row[name])
        assert each.metric_args["confidence_interval_95"] == pytest.approx(row[f"{name}_interval"])


def test_the_text_has_counts_figures_biases_limits_and_misuse(run: Run):
    report(run)
    text = ModelCard(model_card(run.config, run.uri, "my-model")).text
    for title in ("Training data", "Figures", "Sex and age", "Limits", "Misuse", "Licences", "How it was trained"):
        assert f"\n## {title}\n" in text
    assert "correlates with a voice. It cannot identify anyone" in text
    assert "| train | 1,200 | 400 | 2.00 |" in text
    assert "5 became no clip: no_face 5" in text
    assert "neutral, of 1,200 faces; female, of 700 faces; male, of 500 faces" in text
    assert "| neutral+fc | 30.1 (28.6 – 31.6) |" in text
    assert re.search(r"^\| prior-only \| 31\.6 ", text, re.MULTILINE)
    table5 = run.evaluated["table5"][2]
    assert f"| {table5['pictures']} | {100 * table5['accuracy']:.1f} %" in text
    assert "| of the women | of the men |" in text
    assert "Test clips by age: 14 young, 22 middle-aged, 5 old." in text
    assert "The gender classifier is right for 86.2 % of 58 test clips" in text
    assert "trained on this run's own training faces; no third-party weights" in text
    assert "\n\n\n" not in text


def test_without_labels_the_missing_biases_are_named(tmp_path: Path):
    run = write_run(tmp_path, labelled=False)
    report(run)
    text = model_card(run.config, run.uri, "m")
    assert "accuracy of the portraits by sex and age was not measured" in " ".join(text.split())
    assert "| of the women" not in text


def test_a_report_of_an_earlier_encoder_is_not_shown(run: Run):
    report(run)
    uri = f"{run.uri}/encoder/{stages.SUCCESS}"
    manifest = storage.read_json(uri)
    storage.write_json(uri, {**manifest, "fingerprint": "0" * 64})
    text = model_card(run.config, run.uri, "m")
    assert "This model has not been evaluated." in text
    assert "30.1 (" not in text
    assert ModelCard(text).data.eval_results is None


def test_published_weights_and_their_licence_are_named(run: Run):
    uri = f"{run.uri}/vggface/{stages.SUCCESS}"
    manifest = storage.read_json(uri)
    figures = {"published": "/home/me/vgg.pth", "format": "pytorch", "sha256": "ab12"}
    storage.write_json(uri, {**manifest, "figures": figures})
    card = ModelCard(model_card(run.config, run.uri, "m"))
    assert card.data.license == "cc-by-nc-4.0"
    assert "CC BY-NC 4.0" in card.text
    assert "`ab12`" in card.text
    assert "/home/me" not in card.content


def test_names_from_outside_are_shown_as_they_are(run: Run):
    text = model_card(run.config, run.uri, "# <script>`[x](http://y)`\n- z")
    assert "# `# <script>'[x](http://y)' - z`: portraits from speech" in text
    assert ModelCard(text).data.model_name is None or "<script>" in str(ModelCard(text).data.to_dict())
