"""What a sweep is from its command line: what is refused and in which words, what goes on, and what comes out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arspm import config as configuration
from arspm import stages, storage, sweeps
from arspm.config import Config, ConfigError, override
from arspm.presets import preset
from cluster.chain import check
from cluster.errors import ClusterError
from jobs import sweep as work
from jobs.cli import _settings, app, readable
from jobs.sweep_plan import Options, pack, plan, unpack
from tune_spaces import space as spaces
from tune_spaces.space import Choice, LogUniform, Space, Uniform

MINE = """
from tune_spaces.loss_weights import SPACE as WEIGHTS
from tune_spaces.space import Choice, LogUniform, Space

SPACE: Space = {
    **WEIGHTS,
    "training.encoder.learning_rate": LogUniform(1e-4, 1e-2),
    "speech_encoder.cbam_reduction": Choice([8, 16, 32]),
    ("prior.kind", "speech_encoder.fusion"): Choice({"alone": ("none", "fc"), "mean": ("neutral", "sum")}),
}
"""


def commit(run: str, stage: str, config: Config) -> None:
    stages.commit(run, stage, fingerprint=stage[0] * 64, config=config, files={}, seconds=1.0, figures={})


@pytest.fixture
def run(write_corpus: Callable[..., Any], tmp_path: Path) -> str:
    """A run with what an encoder rests on, as far as a plan looks at it, and the speed of its own encoder."""
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    config = override(preset("smoke"), {"data.csv": f"{tmp_path}/no.csv", "data.clips": f"{tmp_path}/clips"})
    for stage in ("gender", "prior", "decoder", "encoder"):
        commit(str(tmp_path), stage, config)
    epochs = [{"epoch": n, "val_cos_degrees": 40.0, "val_l2": 3.0, "clips_per_second": 20.0 * n} for n in (1, 2, 3)]
    storage.write_json(f"{tmp_path}/encoder/history.json", {"epochs": epochs})
    return str(tmp_path)


def arspm(*words: object) -> int:
    """`arspm` in this process: what it prints is for `capsys`, an error as a person sees it."""
    return readable(lambda: app(list(map(str, words)), standalone_mode=False))


def keep(run: str, space: str = "loss_weights", **options: Any) -> tuple[str, dict[str, Any]]:
    """Plan a sweep and let it stand, as a command that is then cut off."""
    place, sweep = plan(run, space, Options(**options), {})
    work.save(place, sweep)
    return place, sweep


# --- what it is


def test_a_sweep_is_what_the_page_and_its_job_need(run: str) -> None:
    place, sweep = plan(run, "loss_weights", Options(), {"training.encoder.epochs": "7"})
    assert place == f"{run}/sweeps/loss_weights"
    told = {name: sweep[name] for name in ("name", "run", "preset", "search", "scheduler", "num_trials", "epochs")}
    assert told == {
        "name": "loss_weights",
        "run": Path(run).name,
        "preset": "smoke",
        "search": "optuna",
        "scheduler": "asha",
        "num_trials": 16,
        "epochs": 7,
    }
    assert sweep["steps_per_epoch"] == 3  # 24 rows, 8 a step
    assert sweep["paper"] == {"loss.lambda1": 1.0, "loss.lambda2": 0.04, "loss.lambda3": 1.2}
    assert (sweep["metric"], sweep["mode"], sweep["seed"], sweep["warm_start"]) == ("val_cos_degrees", "min", 0, None)
    assert configuration.parse(sweep["config"]).training.encoder.epochs == 7
    assert json.loads(json.dumps(sweep, allow_nan=False)) == sweep
    assert not Path(place).exists()


@pytest.mark.parametrize(
    ("space", "options", "search", "scheduler", "num_trials"),
    [
        ("cbam_ordering", {}, "grid", "none", 5),
        ("prior_by_cbam", {}, "grid", "none", 50),
        ("cbam_ordering", {"scheduler": "asha", "num_trials": 3}, "grid", "asha", 3),
        ("cbam_ordering", {"search": "random"}, "random", "asha", 16),
        ("joint", {"search": "random", "scheduler": "none", "num_trials": 2}, "random", "none", 2),
    ],
)
def test_what_is_left_open_follows_from_the_space(
    run: str, space: str, options: dict[str, Any], search: str, scheduler: str, num_trials: int
) -> None:
    _, sweep = plan(run, space, Options(**options), {})
    assert (sweep["search"], sweep["scheduler"], sweep["num_trials"]) == (search, scheduler, num_trials)


def test_a_space_of_epochs_has_the_most_of_them(run: str, tmp_path: Path) -> None:
    """Or ASHA would stop at the run's own number a trial that is to have more."""
    file = tmp_path / "longer.py"
    head = "from tune_spaces.space import Choice\nSPACE = "
    file.write_text(head + '{"training.encoder.epochs": Choice([1, 9, "12"]), "loss.lambda1": Choice([1])}')
    assert plan(run, str(file), Options(), {})[1]["epochs"] == 12
    file.write_text(head + '{("loss.lambda1", "training.encoder.epochs"): Choice({"a": (1, 4), "b": (2, 3)})}')
    assert plan(run, str(file), Options(), {})[1]["epochs"] == 4


def test_paper_values_outside_a_space_are_left_out(run: str, tmp_path: Path) -> None:
    file = tmp_path / "high.py"
    file.write_text(
        "from tune_spaces.space import LogUniform\n"
        'SPACE = {"loss.lambda1": LogUniform(2, 20), "loss.lambda2": LogUniform(0.01, 1)}'
    )
    assert plan(run, str(file), Options(), {})[1]["paper"] == {"loss.lambda2": 0.04}


@pytest.mark.parametrize("name", spaces.shipped())
def test_a_space_goes_into_json_and_comes_back_whole(name: str) -> None:
    space = spaces.load(name)[1]
    again = unpack(json.loads(json.dumps(pack(space))))
    assert spaces.describe(again) == spaces.describe(space)
    for sample in spaces.random_samples(space, 20, 0):
        assert spaces.changes(again, sample) == spaces.changes(space, sample)
    assert spaces.random_samples(again, 20, 3) == spaces.random_samples(space, 20, 3)


def test_values_of_every_kind_come_back_whole() -> None:
    space: Space = {
        "a": Choice([None, True, False, 1, 0.5, "word"]),
        ("b", "c"): Choice([(1, None), (2, "x")]),
        ("d", "e"): Choice({"one": (1, 2), "two": (3, 4)}),
        "f": Choice({"label": None}),
        "g": Uniform(0, 1),
        "h": LogUniform(1e-9, 1e9),
    }
    again = unpack(json.loads(json.dumps(pack(space))))
    assert spaces.describe(again) == spaces.describe(space)
    sample = {"a": "null", "b+c": "2+x", "d+e": "two", "f": "label", "g": 0.5, "h": 2.0}
    assert spaces.changes(again, sample) == spaces.changes(space, sample)
    assert spaces.changes(again, sample)["e"] == 4


# --- what is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"search": "bayes"}, "search: grid or random or optuna, not bayes"),
        (
            {"scheduler": "pbt"},
            "scheduler: asha or none, not pbt: it copies one trial's weights into another by Tune's",
        ),
        ({"scheduler": "bohb"}, "scheduler: asha or none, not bohb: it pauses trials and resumes them from Tune's"),
        ({"scheduler": "sgd"}, "scheduler: asha or none, not sgd"),
        ({"mode": "least"}, "mode: min or max, not least"),
        ({"num_trials": 0}, "num-trials: 1 or more, not 0"),
        ({"metric": "angle"}, "metric: a figure of an epoch, as val_cos_degrees, val_l2 or train_identity; not angle"),
        ({"metric": "val_smile"}, "metric: val_smile is not measured; there are val_cos_degrees, val_l2"),
        (
            {"metric": "train_loss"},
            "metric: train_loss contains loss.lambda1, loss.lambda2, loss.lambda3, so it cannot say which is better",
        ),
        ({"search": "random", "warm_start": "x"}, "warm-start: a random search learns nothing from other trials; use"),
        ({"search": "grid"}, "loss.lambda1: a grid needs a Choice, not LogUniform; or search at random"),
        ({"warm_start": "loss_weights"}, "warm-start: a sweep goes on from its own trials anyway; name another one"),
    ],
)
def test_what_a_sweep_cannot_be_is_told(run: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        plan(run, "loss_weights", Options(**options), {})
    assert not Path(run, "sweeps").exists()


def test_all_that_is_wrong_with_the_options_is_told_at_once(run: str) -> None:
    options = Options(search="no", scheduler="no", mode="no", num_trials=-1, metric="no")
    with pytest.raises(ConfigError) as caught:
        plan(run, "loss_weights", options, {})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "search",
        "scheduler",
        "mode",
        "num-trials",
        "metric",
    ]


def test_the_metric_of_a_loss_is_no_metric_where_losses_differ(run: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from tune_spaces.space import Choice\n"
        'SPACE = {"loss.identity": Choice(["cosine", "distillation"]), "seed": Choice([0])}'
    )
    with pytest.raises(ConfigError, match=r"^metric: train_identity is another figure for each loss.identity"):
        plan(run, str(file), Options(metric="train_identity"), {})


def test_a_grid_has_no_more_trials_than_combinations(run: str) -> None:
    with pytest.raises(ConfigError, match=r"^num-trials: the grid of cbam_ordering has 5, not 6$"):
        plan(run, "cbam_ordering", Options(num_trials=6), {})


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("name", name) for name in ("../x", "..", "a/b", "/a", ".hidden")),
        *(("warm_start", name) for name in ("..", ".hidden")),  # with a stroke it is a URI, which may lie anywhere
    ],
)
def test_names_that_lead_out_of_the_run_are_refused(run: str, option: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"^sweep name "):
        plan(run, "loss_weights", Options(**{option: name}), {})


def test_a_name_that_leads_out_of_the_run_is_refused_at_the_export_too(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arspm("sweep", "--run", run, "--name", "../sweeps/x", "--export-best", tmp_path / "b.json") == 1
    assert capsys.readouterr().err.startswith("error: sweep name '../sweeps/x': letters, digits")


@pytest.mark.parametrize("stage", ["decoder", "prior", "gender"])
def test_a_run_without_what_the_trials_rest_on_says_what_to_do(run: str, stage: str) -> None:
    Path(run, stage, stages.SUCCESS).unlink()
    with pytest.raises(FileNotFoundError, match=f"^{run}: stage {stage} is not done; `arspm submit --run"):
        plan(run, "loss_weights", Options(), {})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss.lamda1": "1"}, "loss.lamda1: there is no such field; did you mean loss.lambda1"),
        ({"face_decoder.width": "0.5"}, "face_decoder.width: belongs to another stage, whose work a sweep takes from"),
        ({"training.decoder.epochs": "5"}, "training.decoder.epochs: belongs to another stage"),
        ({"prior.num_faces": "5"}, "prior.num_faces: belongs to another stage"),
    ],
)
def test_a_setting_of_another_stage_is_refused(run: str, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(says)}"):
        plan(run, "loss_weights", Options(), changes)


def test_settings_of_the_encoder_and_of_resources_are_taken(run: str) -> None:
    changes = {"seed": "3", "ingest.subset": "8", "resources.trial.cpus": "2", "speech_encoder.width": "0.125"}
    _, sweep = plan(run, "prior_type", Options(), changes)
    config = configuration.parse(sweep["config"])
    assert (config.seed, config.resources.trial.cpus, sweep["steps_per_epoch"]) == (3, 2.0, 1)


# --- the same sweep, or another


def test_the_same_command_goes_on(run: str) -> None:
    place, before = keep(run, seed=4, num_trials=6)
    again = plan(run, "loss_weights", Options(seed=4, num_trials=6), {})
    assert again == (place, before)


def test_more_trials_are_the_same_sweep_and_begin_alike(run: str) -> None:
    _, before = keep(run, search="random", num_trials=20)
    _, after = plan(run, "loss_weights", Options(search="random", num_trials=30), {})
    assert after == before | {"num_trials": 30}
    space = unpack(after["dimensions"])
    assert spaces.random_samples(space, 30, 0)[:20] == spaces.random_samples(space, 20, 0)
    _, unsaid = plan(run, "loss_weights", Options(search="random"), {})
    assert unsaid["num_trials"] == 20  # the usual 16 are done, not asked for


def test_what_may_change_between_two_sessions(run: str) -> None:
    _, before = keep(run)
    _, after = plan(run, "loss_weights", Options(), {"resources.trial.cpus": "0.5"})
    assert after["created"] == before["created"]
    assert configuration.parse(after["config"]).resources.trial.cpus == 0.5


@pytest.mark.parametrize(
    ("options", "changes", "says"),
    [
        ({"seed": 1}, {}, "seed 0, not 1"),
        ({"scheduler": "none"}, {}, "scheduler asha, not none"),
        ({"search": "random"}, {}, "search optuna, not random"),
        ({"metric": "val_l2"}, {}, "metric val_cos_degrees, not val_l2"),
        ({"mode": "max"}, {}, "mode min, not max"),
        ({"num_trials": 5}, {}, "16 trials, not 5"),
        ({}, {"loss.identity": "distillation"}, "loss.identity cosine, not distillation"),
        ({}, {"training.encoder.epochs": "9"}, "training.encoder.epochs 2, not 9"),
        ({"seed": 1, "mode": "max"}, {}, "mode min, not max; seed 0, not 1"),
    ],
)
def test_another_sweep_under_the_same_name_is_refused(
    run: str, options: dict[str, Any], changes: dict[str, str], says: str
) -> None:
    place, before = keep(run)
    with pytest.raises(ConfigError) as caught:
        plan(run, "loss_weights", Options(**options), changes)
    assert str(caught.value) == f"{place} holds a sweep with {says}: go on with it as it was, or give --name"
    assert sweeps.load(place) == before
    other, _ = plan(run, "loss_weights", Options(**{"name": "other", **options}), changes)
    assert other == f"{run}/sweeps/other"


def test_another_space_or_another_decoder_is_another_sweep(run: str) -> None:
    place, _ = keep(run, name="one")
    with pytest.raises(ConfigError, match=f"^{place} holds a sweep with .*another space"):
        plan(run, "joint", Options(name="one"), {})
    Path(run, "decoder", stages.SUCCESS).unlink()
    stages.commit(
        run, "decoder", fingerprint="e" * 64, config=preset("smoke"), files={}, seconds=2.0, figures={"new": 1}
    )
    with pytest.raises(ConfigError, match="another decoder, prior or gender network of the run"):
        plan(run, "loss_weights", Options(name="one"), {})


def test_a_folder_that_holds_something_else_is_not_gone_on_with(run: str) -> None:
    storage.write_json(f"{run}/sweeps/loss_weights/sweep.json", {"name": "loss_weights"})
    with pytest.raises(ValueError, match=r"sweep.json: not a sweep$"):
        plan(run, "loss_weights", Options(), {})


def test_a_sweep_is_done_with_its_last_trial(run: str) -> None:
    place, _ = keep(run)
    assert work.done(place, 16) is None
    for state, planned, trials, is_done in (
        ("running", 16, 16, False),
        ("finished", 16, 16, True),
        ("finished", 16, 17, False),
        ("interrupted", 16, 16, False),
    ):
        storage.write_json(f"{place}/results.json", {"state": state, "counts": {"planned": planned}})
        assert (work.done(place, trials) is not None) is is_done


# --- warm start


def test_a_warm_start_is_from_a_sweep_of_the_run_or_from_anywhere(run: str) -> None:
    place, _ = keep(run)
    for asked in ("loss_weights", place, f"{place}/"):
        assert plan(run, "joint", Options(warm_start=asked), {})[1]["warm_start"] == place


def test_a_warm_start_from_nothing_or_by_another_measure_is_refused(run: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/sweep.json: no such file"):
        plan(run, "joint", Options(warm_start="nowhere"), {})
    place, _ = keep(run, metric="val_l2", mode="max")
    with pytest.raises(ConfigError) as caught:
        plan(run, "joint", Options(warm_start="loss_weights"), {})
    said = f"warm-start: {place} was judged by val_l2 (max), not by val_cos_degrees (min)"
    assert str(caught.value) == said


# --- its samples


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_search_begins_with_the_paper_s_values_and_has_them_once(run: str, search: str) -> None:
    _, sweep = plan(run, "joint", Options(search=search, num_trials=12, seed=2), {})
    found = work.searching(sweep, unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(12)]
    assert samples[0] == sweep["paper"]
    assert [work.is_paper(sweep["paper"], sample) for sample in samples] == [True] + [False] * 11
    base = configuration.parse(sweep["config"])
    assert [base.loss.lambda1, base.loss.lambda2, base.loss.lambda3] == list(samples[0].values())[:3]


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_space_without_the_paper_s_values_is_searched_from_its_own(run: str, tmp_path: Path, search: str) -> None:
    file = tmp_path / "high.py"
    file.write_text(
        "from tune_spaces.space import LogUniform\n"
        'SPACE = {"loss.lambda1": LogUniform(2, 20), "loss.lambda2": LogUniform(0.01, 1)}'
    )
    _, sweep = plan(run, str(file), Options(search=search), {})
    found = work.searching(sweep, unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(16)]
    assert all(2 <= sample["loss.lambda1"] <= 20 for sample in samples)
    assert not any(work.is_paper(sweep["paper"], sample) for sample in samples)
    assert not work.is_paper(sweep["paper"], {"loss.lambda1": None, "loss.lambda2": 0.04})


def test_a_random_search_draws_by_number_whatever_its_length(run: str) -> None:
    samples = []
    for num_trials in (5, 9):
        _, sweep = plan(run, "joint", Options(search="random", num_trials=num_trials), {})
        found = work.searching(sweep, unpack(sweep["dimensions"]))
        samples.append([found.suggest(number) for number in range(num_trials)])
    assert samples[1][:5] == samples[0]


def test_a_grid_has_every_combination_and_the_paper_s_with_each_seed(run: str) -> None:
    _, sweep = plan(run, "prior_by_cbam", Options(), {})
    found = work.searching(sweep, unpack(sweep["dimensions"]))
    samples = [found.suggest(number) for number in range(50)]
    assert len({tuple(sample.values()) for sample in samples}) == 50
    paper = [sample for sample in samples if work.is_paper(sweep["paper"], sample)]
    assert [tuple(sample.values()) for sample in paper] == [("neutral+fc", "channel_first", seed) for seed in (0, 1)]


# --- the job


@pytest.mark.parametrize("name", ["loss_weights", "Mine_2.5-B", "a" * 100])
def test_any_name_of_a_sweep_makes_a_job(run: str, name: str) -> None:
    _, sweep = plan(run, "loss_weights", Options(name=name), {})
    stage_name, stem = work._job(run, sweep)
    entrypoint = work._entrypoint(run, name, ["--log", "mlflow"])
    assert check([work.chain.Stage(stage_name, (), entrypoint)]) == [stage_name]
    assert re.fullmatch(r"[a-z0-9_-]+", stem)
    assert shlex.split(entrypoint)[:3] == ["python", "-m", "jobs.sweep"]
    assert ["--name", name] == shlex.split(entrypoint)[5:7]


def test_a_job_is_known_by_its_sweep(run: str) -> None:
    _, sweep = keep(run)
    _, again = plan(run, "loss_weights", Options(), {})
    assert work._job(run, again) == work._job(run, sweep)
    stems = {work._job(run, sweep | change)[1] for change in ({}, {"num_trials": 17}, {"created": 1.0})}
    assert len(stems) == 3


class Cluster:
    """As much of a Jobs API client as lists jobs."""

    def __init__(self, *jobs: tuple[str, str, dict[str, str]]):
        self._jobs = jobs

    def list_jobs(self) -> list[Any]:
        rest = {"error_type": None, "message": "", "driver_exit_code": None, "end_time": None, "start_time": 1}
        return [
            SimpleNamespace(submission_id=name, status=SimpleNamespace(value=status), metadata=metadata, **rest)
            for name, status, metadata in self._jobs
        ]


def test_a_sweep_has_one_driver(run: str) -> None:
    _, sweep = keep(run)
    stage_name, stem = work._job(run, sweep)
    own = {"run": run, "stage": stage_name}
    shorter = work._job(run, sweep | {"num_trials": 8})[1]
    free = Cluster(
        (f"{stem}-1", "RUNNING", own),  # joined
        (f"{shorter}-1", "SUCCEEDED", own),
        (f"{shorter}-2", "RUNNING", {"run": run, "stage": "sweep-other"}),
        (f"{shorter}-3", "RUNNING", {"run": "elsewhere", "stage": stage_name}),
    )
    work._require_free(run, stage_name, stem, free)
    with pytest.raises(ClusterError, match=f"^{shorter}-1 runs a sweep of this name .*arspm cancel {run}$"):
        work._require_free(run, stage_name, stem, Cluster((f"{shorter}-1", "RUNNING", own)))


# --- before launch


def test_the_estimate_is_from_the_run_s_own_speed(run: str) -> None:
    """24 rows and 2 epochs at the median of 20, 40 and 60 clips/s over two workers: 48 / 20 s a trial."""
    _, sweep = plan(run, "loss_weights", Options(num_trials=9, scheduler="none"), {})
    lines = work.estimate(run, sweep, 4).splitlines()
    assert lines[:3] == [
        "9 trials of 2 epochs, 3 steps each",
        "measured when the run's encoder was trained: 20.0 clips/s a worker, so 2 s a trial",
        f"{3 * 2.4 / 3600:.2f} hours with 4 at once",
    ]
    assert lines[4].split()[:2] == ["node", "type"]
    _, sweep = plan(run, "loss_weights", Options(), {"resources.trial.num_workers": "2"})
    lines = work.estimate(run, sweep, None).splitlines()
    assert lines[0] == "16 trials of 2 epochs, 3 steps each, less what ASHA stops early"
    assert "20.0 clips/s a worker, so 1 s a trial" in lines[1]


def test_without_a_measured_step_there_is_no_estimate(run: str) -> None:
    Path(run, "encoder", stages.SUCCESS).unlink()
    _, sweep = plan(run, "loss_weights", Options(), {})
    with pytest.raises(FileNotFoundError, match="stage encoder is not done"):
        work.estimate(run, sweep, None)


# --- the command line


def test_a_space_of_one_s_own_through_the_command_line(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_space.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert arspm("sweep", "./my_space.py", "--run", run, "--num-trials", 40, "--dry-run") == 0
    said = capsys.readouterr()
    assert said.out.startswith("40 trials of 2 epochs, 3 steps each, less what ASHA stops early\n")
    assert said.err == ""
    assert not Path(run, "sweeps").exists()
    place, sweep = plan(run, "./my_space.py", Options(), {})
    assert place == f"{run}/sweeps/my_space"
    assert list(sweep["space"]) == [
        *("loss.lambda1", "loss.lambda2", "loss.lambda3"),
        *("training.encoder.learning_rate", "speech_encoder.cbam_reduction", "prior.kind+speech_encoder.fusion"),
    ]
    assert "prior.kind+speech_encoder.fusion" not in sweep["paper"]  # the paper's neutral+fc is none of its choices


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "say which space to sweep, or --export-best FILE for what a sweep has found"),
        (["los_weights"], "los_weights: there is no such space; there are cbam_ordering, joint, loss_weights"),
        (["./no.py"], "no.py: there is no such file; a space of your own is a local .py file"),
        (["loss_weights", "--log", "excel"], "log: mlflow or wandb, not excel"),
        (["loss_weights", "--set", "seed"], "--set seed: write it as name=value"),
        (["loss_weights", "--scheduler", "hyperband"], "scheduler: asha or none, not hyperband: it pauses trials"),
        (["--export-best", "best.json"], " has no sweep: say which by --name"),
    ],
)
def test_a_wrong_command_is_one_line(run: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert arspm("sweep", *words, "--run", run) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not Path(run, "sweeps").exists()


def test_a_file_that_is_no_space_is_told_in_one_line(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.py").write_text("SPACE = {'loss.lambda1': 3}\n")
    assert arspm("sweep", tmp_path / "bad.py", "--run", run) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/bad.py: loss.lambda1: a domain is LogUniform(")


# --- the best


def leave(place: str, number: int, sample: dict[str, Any], value: float | None, state: str = "finished") -> None:
    space = unpack(sweeps.load(place)["dimensions"])
    record = sweeps.new_record(number, sample, spaces.changes(space, sample), False)
    sweeps.write_record(place, record | {"state": state, "best": value})


def test_the_best_is_written_whole_and_submit_takes_it(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = keep(run, "prior_by_cbam")
    names = ("prior.kind+speech_encoder.fusion", "speech_encoder.cbam", "seed")
    values = [("none", "none", 0), ("neutral", "parallel", 1), ("neutral+fc", "none", 1)]
    for number, (value, angle) in enumerate(zip(values, (40.0, 31.0, 35.0), strict=True)):
        leave(place, number, dict(zip(names, value, strict=True)), angle)
    leave(place, 3, dict(zip(names, values[0], strict=True)), 1.0, "failed")
    file = tmp_path / "best.json"
    assert arspm("sweep", "--run", run, "--export-best", file) == 0  # the only sweep needs no name
    said = capsys.readouterr().out
    assert said == f"trial 1, 31, is in {file}; arspm submit --config {file} --run RUN trains it\n"
    expected = override(
        stages.finished_config(run, "decoder"),
        {"prior.kind": "neutral", "speech_encoder.fusion": "sum", "speech_encoder.cbam": "parallel", "seed": 1},
    )
    assert configuration.load(file.read_bytes()) == expected
    assert _settings("paper", str(file), {}, []) == expected
    # It gets as far as the clips, which are not there.
    assert arspm("submit", "--config", file, "--run", run, "--ray-address", "http://127.0.0.1:9") == 1
    assert capsys.readouterr().err == f"error: data.csv: {run}/no.csv does not exist\n"


def test_one_of_several_sweeps_is_named(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        keep(run, name=name)
    file = tmp_path / "best.json"
    assert arspm("sweep", "--run", run, "--export-best", file) == 1
    assert capsys.readouterr().err == f"error: {run} has the sweeps one,two: say which by --name\n"
    assert arspm("sweep", "--run", run, "--name", "two", "--export-best", file) == 1
    assert capsys.readouterr().err == f"error: {run}/sweeps/two: no trial has a val_cos_degrees yet\n"
    leave(f"{run}/sweeps/two", 0, {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}, 30.0)
    assert arspm("sweep", "--run", run, "--name", "two", "--export-best", file) == 0
    assert configuration.load(file.read_bytes()).loss.lambda3 == 3.0


def test_the_largest_is_the_best_where_more_is_better(run: str) -> None:
    place, _ = keep(run, mode="max")
    weights = {"loss.lambda1": 2.0, "loss.lambda2": 0.1, "loss.lambda3": 3.0}
    for number, value in enumerate((30.0, 50.0, None)):
        leave(place, number, weights | {"loss.lambda1": 1.0 + number}, value)
    record, config = work.best(place)
    assert (record["number"], config.loss.lambda1) == (1, 2.0)
