"""A run's page in a real browser."""

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from arspm import config as configuration
from arspm import storage
from arspm.config.presets import preset
from arspm.report.run_page import PAGE, changed, command, write_report
from arspm.runs import stages
from jobs.report import report
from jobs.stage import expected_fingerprint, run_stage
from tests.report.conftest import CONTRAST, HOSTILE


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_the_page_is_self_contained_and_draws_all_charts(
    open_run: Any, open_page: Any, width: int, scheme: str
) -> None:
    opened = open_run.opened if (width, scheme) == (1280, "light") else open_page(open_run.run, width, scheme)
    assert opened.messages == []
    assert opened.network() == []
    charts = opened.page.eval_on_selector_all(
        ".chart", "all => all.map(e => [e.id, e.querySelectorAll('.main-svg').length])"
    )
    assert {name for name, _ in charts} == {
        f"chart-{name}"
        for name in ("feature", "portrait", "probes", "vggface", "gender", "decoder", "encoder", "prior")
    }
    assert all(drawn >= 1 for _, drawn in charts)
    assert opened.page.eval_on_selector_all("#chart-encoder .scatterlayer .trace", "all => all.length") == 3
    pictures = opened.page.eval_on_selector_all(".grid img", "all => all.map(e => e.naturalWidth)")
    assert pictures == [64] * 9
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_colleague_sees_who_speaks_and_which_code_ran(open_run: Any) -> None:
    run, page = open_run.run, open_run.opened.page
    cells = page.locator("#speakers tbody tr").first.locator("td").all_inner_texts()
    split = run.evaluated["speakers"]["train"]
    counts = [split["speakers"], *split["sex"].values(), *split["age"].values()]
    assert cells == [*map(str, counts), "1.40"]
    assert "not measured" in page.locator("#speakers tbody tr").last.locator("td").last.inner_text()
    commit = storage.read_json(f"{run.uri}/encoder/{stages.SUCCESS}")["provenance"]["commit"]
    assert f"Code: commit {commit}" in page.locator("#provenance").inner_text()


def test_a_colleague_sees_what_each_stage_used_and_cost(open_run: Any) -> None:
    """By hand: 4 GPUs for 3728.058 s are 4.1423 GPU-hours, their nodes at 4 x 0.6663 USD per hour cost 2.7600."""
    page = open_run.opened.page
    rows = {
        row.locator("th").inner_text(): dict(
            zip(row.locator("[data-label]").evaluate_all("all => all.map(e => e.dataset.label)"), cells, strict=True)
        )
        for row in page.locator("#stages tbody tr").all()
        if (cells := row.locator("[data-label]").all_inner_texts())
    }
    assert rows["encoder"]["Workers"] == "1 to 4"
    assert rows["encoder"]["GPUs"].split() == ["4", "A10G"]
    assert rows["encoder"]["GPU-hours"] == "4.14"
    assert rows["encoder"]["USD"].split("\n") == ["2.76", "4 g5.4xlarge, spot"]
    assert (rows["evaluate"]["GPUs"], rows["evaluate"]["GPU-hours"]) == ("0", "0.00")
    assert rows["evaluate"]["USD"].startswith("< 0.01"), "10.258 s at 0.2807 USD per hour"
    assert rows["prior"]["Workers"] == "0"
    assert rows["gender"]["USD"].split() == rows["prior"]["USD"].split() == ["–", "not", "measured"]
    trained = 91.382 + 83.833 + 3728.058
    hours = (4 * trained + 30.5) / 3600
    usd = (trained * 4 * 0.6663 + (49.758 + 8.867 + 41.25 + 10.258) * 0.2807) / 3600
    metrics = storage.read_json(f"{open_run.run.uri}/report/metrics.json")
    assert (metrics["spent"]["gpu_hours"], metrics["spent"]["usd"]) == (pytest.approx(hours), pytest.approx(usd))
    total = f"{hours:.2f} GPU-hours; {usd:.2f} USD"
    assert total in page.locator(".facts").inner_text()
    assert total.replace(";", ",") in page.locator("#stages caption").inner_text()
    assert page.locator("#provenance .unpriced").all_inner_texts() == ["No cost of gender: started by hand."]
    assert "The head, idle nodes, disks and traffic are not included." in page.locator("#provenance").inner_text()


def test_without_prices_there_is_no_cost_but_a_reason(make_run: Any) -> None:
    run = make_run()
    for stage in stages.STAGES:
        manifest = Path(stages.folder(run.uri, stage), stages.SUCCESS)
        if manifest.exists():
            value = json.loads(manifest.read_text())
            usage = {"workers": 2, "least_workers": 2, "cpus": 2, "no_price": "a laptop"} if stage != "prior" else {}
            figures = value["figures"] | ({"adopted": "/runs/one"} if stage == "preprocess" else {})
            manifest.write_text(json.dumps(value | {"usage": usage, "figures": figures}))
    write_report(run.config, run.uri, None)
    text = Path(run.uri, PAGE).read_text()
    table = text.partition('id="stages"')[2].partition("</table>")[0]
    assert "Workers" in table
    assert "GPU" not in table
    assert "USD" not in text.partition('id="summary"')[2]
    assert re.findall(r"No cost.*", text) == ["No cost: a laptop.</p>"]
    assert "of /runs/one</span>" in table
    assert "Stages of another run have the time that they took there" in text
    assert storage.read_json(f"{run.uri}/report/metrics.json")["computed_by"] == {"preprocess": "/runs/one"}


def test_the_norm_of_the_features_is_shown_as_measured_and_as_set(open_run: Any) -> None:
    page = open_run.opened.page
    assert page.get_attribute("#feature-norm", "value") == "412.34"
    note = page.locator("p.note", has=page.locator("#feature-norm")).inner_text()
    assert "mean norm on the corpus’s faces was 412; they were scaled to 6.3" in note


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_run: Any, open_page: Any, scheme: str) -> None:
    opened = open_run.opened if scheme == "light" else open_page(open_run.run, 1280, scheme)
    worst = opened.page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst


def test_charts_follow_the_colour_scheme(make_run: Any, open_page: Any) -> None:
    opened = open_page(make_run())
    colour = "getComputedStyle(document.querySelector('#chart-feature .scatterlayer .point')).fill"
    light = opened.page.evaluate(colour)
    opened.page.emulate_media(color_scheme="dark")
    opened.wait_for(f"{colour} !== '{light}'")


def test_tables_show_the_numbers_of_metrics_json(open_run: Any) -> None:
    page, run = open_run.opened.page, open_run.run
    metrics = storage.read_json(f"{run.uri}/report/metrics.json")
    cells = page.eval_on_selector_all(
        "#ours tbody tr",
        "rows => rows.map(r => [...r.cells].slice(1).map(c => [c.querySelector('data')?.value ?? null, c.innerText]))",
    )
    names = (
        "l1",
        "l2",
        "cos_degrees",
        "cos_degrees_learnt_share",
        "portrait_l1",
        "portrait_l2",
        "portrait_cos_degrees",
    )
    assert len(cells) == len(metrics["table4"])
    for row, shown in zip(metrics["table4"], cells, strict=True):
        for name, (value, text) in zip(names, shown, strict=True):
            assert (value if value is None else float(value)) == row[name]
            if row[name] is None:
                assert text.split() == ["–", "not", "measured"]
                continue
            unit = 0.01 if "%" in text else 1
            parts = [float(part) * unit for part in re.sub("[–,%]", " ", text).split()]
            assert parts == pytest.approx([row[name], *row[f"{name}_interval"]], rel=0.02)
    seconds = page.eval_on_selector_all("#stages [data-label=Time] data", "all => all.map(e => parseFloat(e.value))")
    assert seconds == list(metrics["stages"].values())
    assert page.locator("#stages").inner_text().count("1 h 02 min") == 1
    assert "closer than shuffled speech (39.2°)" in page.locator(".headline").first.inner_text()
    published = page.locator("#published").inner_text()
    assert "15.204" in published
    assert "not targets" in published
    assert page.locator("#filter").inner_text() == (
        "data.filter selects 1,100 of 1,200 training clips; validation and test use all of theirs. "
        "face_score > 0.5 removes 80; voiced_seconds > 2 removes 30."
    )


def test_untrusted_text_is_not_interpreted_as_html(make_run: Any, drop: Any, open_page: Any) -> None:
    drops = [drop(line, "undecodable", text, text) for line, text in enumerate(HOSTILE[:3])]
    run = make_run(dropped=[*drops, drop(9, "bad_row", None, HOSTILE[3])])
    evaluated = run.evaluated
    evaluated["portraits"][0]["clip_id"] = HOSTILE[0]
    evaluated["portraits"][1]["clip_id"] = HOSTILE[1]
    evaluated["judge"] = HOSTILE[2]
    evaluated["table4"][0]["model"] = HOSTILE[1]
    storage.write_json(f"{run.uri}/evaluate/metrics.json", evaluated)
    opened = open_page(run)
    assert opened.messages == []
    assert opened.network() == []
    assert opened.page.evaluate("window.pwned") is None
    examples = opened.page.locator("#dropped").inner_text()
    assert all(text in examples for text in HOSTILE)
    clips = opened.page.locator(".clip").all_inner_texts()
    assert clips[:2] == list(HOSTILE[:2])
    assert opened.page.locator(".grid img").first.get_attribute("alt") == f"Real, clip {HOSTILE[0]}"
    assert opened.page.locator("script").count() == 3  # charts, Plotly and our script
    assert HOSTILE[1] in opened.page.locator("#chart-feature").text_content()


def test_injected_scripts_do_not_run(make_run: Any, open_page: Any, tmp_path: Path) -> None:
    run = make_run()
    write_report(run.config, run.uri, None)
    path = tmp_path / "changed.html"
    path.write_text(Path(run.uri, PAGE).read_text().replace("</main>", "<script>window.pwned = 1</script></main>"))
    opened = open_page(run, path=path)
    assert opened.page.evaluate("window.pwned") is None
    assert "Content Security Policy" in " ".join(opened.messages)


def test_missing_measurements_have_a_reason(make_run: Any, open_page: Any) -> None:
    opened = open_page(make_run(labelled=False, dropped=[]), 390)
    assert opened.messages == []
    text = opened.page.locator("body").inner_text()
    assert "Not judged" in text
    assert "gender was not trained" in text
    assert "labels.csv names no speaker of one sex" in text
    assert "no gender classifier was trained" in text
    assert "not compared with the gender prior alone" in text
    assert "too few age labels" in text
    assert "probes require synthetic speakers" in text
    assert "Not measured: dlib's HOG gives no landmarks" in text
    assert opened.page.locator("#chart-probes").count() == 0
    assert not {"None", "nan", "NaN", "Undefined", "undefined", "null"} & set(text.replace(".", " ").split())
    assert opened.page.locator("#dropped").count() == opened.page.locator("#filter").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_is_accessible_to_screen_readers(open_run: Any) -> None:
    page = open_run.opened.page
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert (
        page.eval_on_selector_all(
            "table", "all => all.filter(e => !e.caption?.innerText.trim() && !e.closest('details:not([open])')).length"
        )
        == 0
    )
    assert page.eval_on_selector_all("img", "all => all.filter(e => !e.alt).length") == 0
    assert page.eval_on_selector_all(".chart", "all => all.filter(e => !e.ariaLabel).length") == 0
    assert "identifies no one" in page.locator("#portraits").inner_text()


def test_the_command_reproduces_the_configuration(make_run: Any) -> None:
    run = make_run()
    write_report(run.config, run.uri, None)
    words = shlex.split(command(run.config, run.uri, changed(run.config, preset("smoke"))).replace("\\\n", " "))
    assert words[:2] == ["arspm", "submit"]
    flags = list(zip(words[2::2], words[3::2], strict=True))
    options = dict(flags)
    sets = dict(value.split("=", 1) for flag, value in flags if flag == "--set")
    assert sets == {"seed": "7", "loss.lambda2": "0.05", "ingest.subset": "40"} | {
        "resources.encoder.threads": "null",
        "face_decoder.batch_norm": "false",
    }
    again = configuration.override(
        preset(options["--preset"]), sets | {"data.csv": options["--csv"], "data.clips": options["--clips"]}
    )
    assert again == run.config
    assert options["--run"] == run.uri


def test_the_report_stage_commits_the_page(make_run: Any) -> None:
    run = make_run()
    fingerprint = expected_fingerprint("report", run.uri, run.config)
    run_stage("report", report, run.uri, run.config, fingerprint)
    success = stages.done(run.uri, "report", fingerprint)
    assert success is not None
    assert success.files == {path: storage.describe(f"{run.uri}/{path}") for path in (PAGE, "report/metrics.json")}
    assert success.figures["num_portraits"] == 3
    json.dumps(success.figures, allow_nan=False)
