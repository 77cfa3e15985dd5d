"""Which models an ablation trains, which it leaves out and why, and which it reuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arspm.config import ConfigError
from arspm.config.presets import preset
from arspm.config.studies import STUDIES
from arspm.config.variants import TABLE4, VARIANTS
from arspm.runs import stages
from jobs.ablation_plan import plan
from tests.jobs.conftest import arspm_in_process as arspm

PRIORS = {"priors": {"neutral": {}, "female": {}, "male": {}}}
SHARED = ("gender", "prior", "decoder", "oracle")


def commit(run: str, stage: str, fingerprint: str, figures: dict[str, Any], config: Any = None) -> None:
    config = config or preset("smoke")
    stages.commit(run, stage, fingerprint=fingerprint, config=config, files={}, seconds=1.0, figures=figures)


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., str]:
    """A function that commits a run's shared stages, with these figures."""

    def make(**figures: dict[str, Any]) -> str:
        for stage in SHARED:
            commit(str(tmp_path), stage, stage[0] * 64, figures.get(stage, PRIORS if stage == "prior" else {}))
        return str(tmp_path)

    return make


def test_table_4_has_three_models_of_each_variant_each_in_its_own_run(finished: Callable[..., str]) -> None:
    run = finished()
    models, missing = plan(run)
    assert missing == []
    assert len(models) == 3 * len(TABLE4) == 24
    assert {model.variant for model in models if VARIANTS[model.variant].published} == {*TABLE4} - {"speech2face"}
    assert len({model.run for model in models}) == len({model.fingerprints["encoder"] for model in models}) == 24
    fused = next(model for model in models if model.variant == "neutral+fc")
    assert fused.run == f"{run}/_variants/neutral-fc-0"
    assert stages.corpus(fused.run) == f"{run}/corpus"
    assert stages.folder(fused.run, "decoder") == f"{run}/decoder"
    assert stages.folder(fused.run, "encoder") == f"{fused.run}/encoder"
    assert {model.config.seed for model in models} == {0, 1, 2}


def test_all_variants_are_valid_and_different_configurations(finished: Callable[..., str]) -> None:
    models, _ = plan(finished(), list(VARIANTS), 1)
    assert len({model.config.model_dump_json() for model in models}) == len(VARIANTS)
    assert len({model.slug for model in models}) == len(VARIANTS)


def test_variants_that_the_corpus_does_not_allow_are_left_out_with_a_reason(finished: Callable[..., str]) -> None:
    run = finished(prior={"priors": {"neutral": {}}}, gender={"trained": False, "reason": "labels.csv names nobody"})
    models, missing = plan(run, TABLE4, 1)
    assert {model.variant for model in models} == {"non-prior", "neutral", "neutral+fc", "speech2face"}
    reasons = {gap["variant"]: gap["reason"] for gap in missing}
    problem = "labels.csv names no such speaker; gender.weights lets a network predict the sex"
    assert reasons["male"] == f"no mean face of male: {problem}"
    assert reasons["gender+fc"] == f"no mean face of female and male: {problem}"
    run = finished(gender={"trained": False, "reason": "labels.csv names nobody in the validation split"})
    (Path(run) / "gender" / stages.SUCCESS).unlink()
    (Path(run) / "prior" / stages.SUCCESS).unlink()
    finished(gender={"trained": False, "reason": "labels.csv names nobody in the validation split"})
    _, missing = plan(run, ["gender"], 1)
    assert missing[0]["reason"] == "no gender classifier: labels.csv names nobody in the validation split"


def test_the_run_s_own_model_is_reused_for_its_variant(finished: Callable[..., str]) -> None:
    run = finished()
    [model, _, _] = plan(run, ["neutral+fc"])[0]
    for stage in ("encoder", "evaluate"):
        commit(run, stage, model.fingerprints[stage], {}, model.config)
    models, _ = plan(run, ["neutral+fc"])
    assert [each.run for each in models] == [run, *(f"{run}/_variants/neutral-fc-{seed}" for seed in (1, 2))]
    changed, _ = plan(run, ["neutral+fc"], 1, {"training.encoder.epochs": "7"})
    assert changed[0].run == f"{run}/_variants/neutral-fc-0"


def test_a_change_of_one_variant_only_is_in_its_description(finished: Callable[..., str]) -> None:
    changes = {"training.encoder.epochs": "7", "speech2face:speech_encoder.width": "0.5"}
    models, _ = plan(finished(), ["neutral", "speech2face"], 1, changes)
    assert [model.config.training.encoder.epochs for model in models] == [7, 7]
    assert models[0].config.speech_encoder.width == preset("smoke").speech_encoder.width
    assert models[1].config.speech_encoder.width == 0.5
    assert models[1].description == VARIANTS["speech2face"].description + ", speech_encoder.width = 0.5"
    assert models[0].description == VARIANTS["neutral"].description


def test_a_study_has_its_own_models_with_the_papers_recipe(finished: Callable[..., str]) -> None:
    run = finished()
    study = STUDIES["prior"]
    models, missing = plan(run, study.variants, 5, {"training.encoder.epochs": "8"}, "prior")
    assert missing == []
    assert len(models) == 30
    assert {model.variant for model in models} == set(study.variants)
    assert models[0].run == f"{run}/_variants/study-prior-non-prior-0"  # Table 4's models are kept
    assert not {model.run for model in models} & {model.run for model in plan(run, study.variants, 5)[0]}
    for model in models:
        recipe = model.config.training.encoder
        assert (recipe.beta1, recipe.beta2, recipe.eps) == (0.5, 0.999, 1e-4)
        assert (recipe.learning_rate, recipe.decay, recipe.decay_epochs) == (1e-3, 0.9, 2)
        assert (recipe.augment, recipe.global_batch_size, recipe.epochs) == (False, 16, 8)
    seeds = [[model.config.seed for model in models if model.variant == name] for name in study.variants]
    assert seeds == [[0, 1, 2, 3, 4]] * 6
    for change in ({"training.encoder.eps": "1e-8"}, {"adaptive:training.encoder.augment": "true"}):
        with pytest.raises(ConfigError, match="the study prior fixes this field; leave it out"):
            plan(run, study.variants, 5, change, "prior")


def test_controls_of_one_sex_need_labels_of_that_sex(finished: Callable[..., str]) -> None:
    run = finished(prior={"priors": {"neutral": {}, "female": {}}})
    models, missing = plan(run, ["non-prior-female", "non-prior-male", "constant"], 1)
    assert [model.variant for model in models] == ["non-prior-female", "constant"]
    assert missing[0]["reason"].startswith("no mean face of male: labels.csv names no such speaker; gender.weights")


def test_a_run_without_a_decoder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: stage decoder is not done; `arspm submit --run"):
        plan(str(tmp_path))


@pytest.mark.parametrize(
    ("variants", "seeds", "changes", "message"),
    [
        (["neutral", "newtral"], 3, {}, r"newtral: no such variant; the variants are non-prior, neutral"),
        (["neutral"], 0, {}, r"seeds: must be at least 1"),
        (["neutral"], 1, {"male:seed": "1"}, r"male:seed: male is not among the variants to train: neutral$"),
        (["neutral"], 1, {"loss.lamda1": "1"}, r"loss.lamda1: there is no such field; did you mean loss.lambda1"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_submitted(
    finished: Callable[..., str], variants: list[str], seeds: int, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(finished(), variants, seeds, changes)


@pytest.mark.parametrize("words", [[], ["--detach"]])
def test_an_ablation_without_a_possible_model_is_refused(
    finished: Callable[..., str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(prior={"priors": {"neutral": {}}})
    assert arspm("ablation", "--run", run, "--variants", "male", "--seeds", 1, *words) == 1
    said = capsys.readouterr()
    assert said.out.startswith("male, seed 0: left out, no mean face of male")
    assert said.err == f"error: {run}: its corpus allows none of these models\n"
