"""An ablation's page in a real browser."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.report.ablation_page import table4_row, write_ablation
from tests.report.conftest import CONTRAST, HOSTILE, Opened
from tests.report.finished_run import write_run
from tests.report.measured import FIGURES, SHARE, studied, write_comparison
from tests.report.test_measures import caption, cells

PAGE = "ablation/index.html"
SECTIONS = ["findings", "table4", "differences", "figure5", "figure6", "table5", "table6", "models"]
COLUMNS = ("l1", "l2", "cos_degrees", SHARE, "portrait_l1", "portrait_l2", "portrait_cos_degrees")


@pytest.fixture
def open_ablation(make_run: Any, open_page: Any) -> Any:
    """Write the comparison, modified by `change`, and its page into a run, and open the page."""

    def open_it(width: int = 1280, scheme: str = "light", change: Any = None, **options: Any) -> Any:
        run = make_run()
        metrics = write_comparison(Path(run.uri), **options)
        if change:
            change(metrics)
        write_ablation(run.config, run.uri, metrics)
        return open_page(run, width, scheme, path=Path(run.uri, PAGE)), metrics

    return open_it


@pytest.fixture(scope="module")
def ablation(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of all variants, open for tests that do not modify it, and its metrics."""
    run = write_run(tmp_path_factory.mktemp("runs") / "trial")
    metrics = write_comparison(Path(run.uri))
    write_ablation(run.config, run.uri, metrics)
    opened = Opened(browser, Path(run.uri, PAGE), 1280, "light")
    yield opened, metrics
    opened.page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_self_contained_and_draws_all_charts(ablation: Any, open_ablation: Any, width: int) -> None:
    opened, _ = ablation if width == 1280 else open_ablation(width, "dark")
    page = opened.page
    assert opened.messages == []
    assert opened.network() == []
    assert page.eval_on_selector_all("main > section", "all => all.map(e => e.id)") == SECTIONS
    assert page.eval_on_selector_all("nav a", "all => all.map(e => e.hash.slice(1))") == SECTIONS
    charts = page.eval_on_selector_all(".chart", "all => all.map(e => e.id)")
    assert charts == ["chart-feature", "chart-portrait", "chart-validation", "chart-loss"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.eval_on_selector_all(".faces img", "all => all.map(e => e.naturalWidth)") == [64] * 100
    assert "identifies no one" in page.locator("#figure6").inner_text()
    worst = page.evaluate(CONTRAST)
    assert worst["ratio"] >= 4.5, worst
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => +e.tagName[1])")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_table4_shows_means_standard_deviations_intervals_and_the_papers_values(ablation: Any) -> None:
    opened, metrics = ablation
    page = opened.page
    expected, names = [], []
    for variant in metrics["variants"]:
        names.append(variant["variant"])
        expected.append([variant["figures"][name]["mean"] for name in COLUMNS])
        if variant["variant"] in ("female", "male"):  # evaluated on their own clips, so with a prior row of their own
            names.append("prior-only")
            expected.append([variant["runs"][0]["prior_only"].get(name) for name in COLUMNS])
    names += [row["model"] for row in metrics["rows"]]
    expected += [[row.get(name) for name in COLUMNS] for row in metrics["rows"]]
    assert page.eval_on_selector_all("#ours tbody th", "all => all.map(e => e.firstChild.data)") == names
    assert cells(page, "ours") == expected
    first = page.locator("#ours tbody tr").nth(2).locator("td")
    assert first.nth(2).inner_text().split("\n") == ["31.33 ± 0.78", "29.1 – 32.6", "PAPER 15.204"]
    assert first.nth(3).inner_text() == "31.4 ± 5.0 %"
    negative = page.locator("#ours tbody tr", has_text="the speech2face model").locator("td").nth(3)
    assert negative.inner_text() == "−40.0 ± 5.0 %"
    assert "own sex only" in page.locator("#ours tbody tr", has_text="the male model").inner_text()
    assert page.locator("#ours", has_text="own sex only").count() == 1


def test_the_page_says_where_the_sex_is_predicted(ablation: Any, open_ablation: Any) -> None:
    def predict(metrics: Any) -> None:
        counts = {"labelled": 100, "predicted": 1000, "unknown": 100}
        metrics["labels"] = {"train": counts}
        metrics["genders"] = {"labelled": 1, "predicted": 39, "unknown": 1, "selected_by_prediction": 0}
        for variant in metrics["variants"]:
            variant["num_predicted"] = {"female": 20, "male": 19}.get(variant["variant"], 0)

    opened, _ = open_ablation(change=predict)
    assert opened.messages == []
    page = opened.page
    female = page.locator("#ours tbody tr", has_text="the female model").inner_text()
    assert "20 clips, all with a predicted sex, own sex only" in female
    male = page.locator("#ours tbody tr", has_text="the male model").inner_text()
    assert "20 clips, 19 of them with a predicted sex, own sex only" in male
    assert "predicted sex" not in page.locator("#ours tbody tr", has_text="the neutral model").inner_text()
    note = page.locator("#predicted").inner_text()
    assert "for 1,000 of the 1,200 training clips" in note
    assert "The sex of 39 of these 40 clips is predicted from the voice" in caption(page, "table5-rows")
    assert "predicted from the voice" not in caption(page, "table6-rows")
    labelled = ablation[0].page
    assert labelled.locator("#predicted").count() == 0
    assert "with a predicted sex" not in labelled.locator("main").inner_text()


def test_verdicts_of_differences_follow_from_their_corrected_p_values(ablation: Any) -> None:
    opened, metrics = ablation
    order = ("val_cos_degrees", "cos_degrees", "l2", "l1", "portrait_cos_degrees", "portrait_l2", "portrait_l1")
    others = [variant["against_non_prior"] for variant in metrics["variants"] if variant["against_non_prior"]]
    expected = [[each[name] and each[name]["difference"] for name in order] for each in others]
    assert [row[0] for row in expected].count(None) == 2  # female and male are validated on other clips
    assert cells(opened.page, "against") == expected
    verdicts = opened.page.eval_on_selector_all(
        "#against tbody tr", "rows => rows.map(r => [...r.querySelectorAll('.verdict')].map(e => e.innerText))"
    )
    sizes = [each["cos_degrees"]["difference"] for each in others]
    words = ["better" if size < -0.7 else "worse" if size > 0.7 else "undecided" for size in sizes]
    assert verdicts == [[word] * 6 for word in words]  # the validation angle has no p-value
    assert set(words) == {"better", "undecided", "worse"}


def test_what_intervals_are_over_and_that_a_constant_prior_is_a_bias_is_said(ablation: Any, open_ablation: Any) -> None:
    opened, _ = ablation
    text = opened.page.locator("#table4").inner_text()
    assert "95 % interval over seeds and speakers" in text
    assert "A constant prior is a bias: neutral, neutral+fc are non-prior with other initial biases" in text
    assert "after Holm’s correction" in opened.page.locator("#differences").inner_text()

    def control(metrics: Any) -> None:
        row = metrics["variants"][1]["against_non_prior"]
        metrics["controls"] = [{"variant": "female", "reference": "non-prior-female", "differences": row}]

    single, _ = open_ablation(change=control, num_seeds=1, variants=("non-prior", "gender"))
    text = single.page.locator("body").inner_text()
    assert "95 % interval over speakers, for a single seed" in text
    assert "over seeds and speakers" not in text
    assert "A constant prior is a bias" not in text
    last = single.page.locator("#against tbody tr").last
    heading = last.locator("th").inner_text().split("\n")
    assert heading == ["female", "minus non-prior-female instead, trained on the same clips"]
    assert last.locator("td").first.inner_text().startswith("−1.20")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_study_shows_its_outcomes_and_comparisons_instead_of_differences(
    make_run: Any, open_page: Any, width: int
) -> None:
    run = make_run()
    metrics = write_comparison(Path(run.uri))
    metrics["study"] = studied(metrics)
    files, _ = write_ablation(run.config, run.uri, metrics, "prior")
    assert list(files) == ["study-prior/index.html"]
    opened = open_page(run, width, "light", path=Path(run.uri, "study-prior/index.html"))
    page = opened.page
    assert opened.messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sections = [section.replace("differences", "study") for section in SECTIONS]
    assert page.eval_on_selector_all("main > section", "all => all.map(e => e.id)") == [
        "findings",
        "table4",
        "study",
        *sections[3:],
    ]
    assert page.eval_on_selector_all("nav a", "all => all.map(e => e.hash.slice(1))") == sections
    assert page.locator("h1").inner_text() == "Study prior"
    text = page.locator("#findings").inner_text()
    assert "Does it <help>?" in text
    assert "training.encoder.eps=1e-4, training.encoder.augment=false" in text.replace("0.0001", "1e-4")
    assert "Below the protocol: Trained on 1,234 clips" in text
    study = metrics["study"]
    names = [outcome["name"] for outcome in study["outcomes"]]
    assert cells(page, "outcomes") == [
        [row["values"][name] and row["values"][name]["mean"] for name in names] for row in study["rows"]
    ]
    assert cells(page, "pairs") == [
        [pair["differences"][name] and pair["differences"][name]["difference"] for name in names]
        for pair in study["pairs"]
    ]
    headings = page.locator("#pairs tbody th").all_inner_texts()
    assert headings == ["neutral − non-prior", "adaptive − neutral"]
    verdicts = page.locator("#pairs .verdict").all_inner_texts()
    assert verdicts == ["better", "undecided", "worse"]  # no verdict without a p-value
    assert page.evaluate(CONTRAST)["ratio"] >= 4.5


def test_tables_5_and_6_show_the_papers_values(ablation: Any) -> None:
    opened, metrics = ablation
    for key, table, parts in (
        ("gender", "table5", ("female", "male")),
        ("age", "table6", ("young", "mid_age", "elder")),
    ):
        rows = metrics[table] + [variant[key] for variant in metrics["variants"]]
        assert cells(opened.page, f"{table}-rows") == [[row[name] for name in ("accuracy", *parts)] for row in rows]
    male = opened.page.locator("#table5-rows tbody tr", has_text="male").last
    assert "PAPER 85.8 %" in male.inner_text()
    assert "PAPER 68.0 %" in male.inner_text()


def test_curves_have_a_line_per_seed_and_the_legend_shows_hidden_variants(ablation: Any) -> None:
    opened, metrics = ablation
    page = opened.page
    drawn = "document.querySelectorAll('#chart-validation .scatterlayer .trace').length"
    assert page.evaluate(drawn) == 6
    assert page.locator("#chart-validation .legendtext").all_text_contents()[:2] == ["non-prior", "neutral+fc"]
    page.locator("#chart-validation .legendtoggle").nth(2).click()
    opened.wait_for(f"{drawn} === 9")
    targets = metrics["convergence"]["targets"]
    assert cells(page, "steps") == [
        [target["variants"][number]["mean"] for target in targets] for number in range(len(metrics["variants"]))
    ]
    steps = page.locator("#steps").inner_text()
    assert "reached by 0 of 3" in steps
    reached = targets[0]["variants"][0]
    assert ", ".join(map(str, reached["steps"])) in steps


def test_figure_6_rows_are_in_the_papers_order(ablation: Any) -> None:
    opened, metrics = ablation
    names = [variant["variant"] for variant in metrics["variants"]]
    assert opened.page.locator("#faces tbody th").all_inner_texts() == ["Real", "Face-to-Face", *names]
    alt = opened.page.locator("#faces tbody tr").last.locator("img").nth(3).get_attribute("alt")
    assert alt == f"speech2face, clip {metrics['portraits'][3]['clip_id']}"


def test_one_seed_without_reference_has_reasons_for_missing_parts(open_ablation: Any) -> None:
    def remove_parts(metrics: Any) -> None:
        for variant in metrics["variants"]:
            variant |= {"against_non_prior": None, "gender": None, "age": None}
            variant["figures"][SHARE] = None
        metrics["rows"] = [row for row in metrics["rows"] if row["model"] != "oracle"]
        metrics["convergence"] |= {"targets": [], "loss_curves": []}
        metrics |= {"findings": [], "missing": [], "table5": None, "table6": None, "oracle": None, "portraits": []}

    opened, _ = open_ablation(390, change=remove_parts, num_seeds=1, variants=("neutral", "gender"))
    assert opened.messages == []
    page = opened.page
    text = page.locator("body").inner_text()
    for sentence in (
        "No findings",
        "No comparison",
        "No portraits were drawn",
        "No losses were recorded",
    ):
        assert sentence in text
    assert text.count("Not judged") == 2
    assert "±" not in page.locator("#ours tbody").first.inner_text()
    assert "Fraction learnt" not in text
    assert page.evaluate("document.querySelectorAll('#chart-validation .scatterlayer .trace').length") == 2
    assert not {"None", "nan", "NaN", "Undefined", "undefined", "null"} & set(text.replace(".", " ").split())
    assert page.locator("#missing").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_untrusted_text_is_not_interpreted_as_html(open_ablation: Any) -> None:
    def inject(metrics: Any) -> None:
        metrics["portraits"][0]["clip_id"] = HOSTILE[0]
        metrics["portraits"][1]["clip_id"] = HOSTILE[1]
        metrics["missing"][0]["reason"] = HOSTILE[2]
        metrics["findings"][0] = HOSTILE[3]
        metrics["variants"][0]["description"] = HOSTILE[0]
        metrics["convergence"]["curves"][0]["variant"] = HOSTILE[1]
        metrics["judge"] = HOSTILE[2]
        del metrics["portraits"][4]["variants"]["non-prior"]

    opened, _ = open_ablation(change=inject)
    page = opened.page
    assert opened.messages == []
    assert opened.network() == []
    assert page.evaluate("window.pwned") is None
    assert page.locator(".clips .clip").all_inner_texts()[:2] == list(HOSTILE[:2])
    assert page.locator(".faces img").first.get_attribute("alt") == f"Real, clip {HOSTILE[0]}"
    assert HOSTILE[2] in page.locator("#missing").inner_text()
    assert page.locator(".headline").first.inner_text() == HOSTILE[3]
    assert HOSTILE[0] in page.locator("#ours").inner_text()
    assert page.locator("script").count() == 3
    row = page.locator("#faces tbody tr").nth(2)
    assert row.locator("img").count() == 9
    assert row.locator("td").nth(4).inner_text().startswith("–")  # this variant has no portrait of that clip


def test_it_writes_one_file_and_links_the_report(make_run: Any) -> None:
    run = make_run()
    metrics = write_comparison(Path(run.uri))
    metrics["variants"][0]["figures"]["l1"]["sd"] = float("nan")
    files, figures = write_ablation(run.config, run.uri, metrics)
    assert files == {PAGE: storage.describe(f"{run.uri}/{PAGE}")}
    assert figures == {"page": PAGE, "num_variants": 8, "num_models": 24, "num_missing": 1}
    json.dumps(figures, allow_nan=False)
    assert "../report/index.html" not in Path(run.uri, PAGE).read_text()
    storage.write_bytes(f"{run.uri}/report/index.html", b"")
    write_ablation(run.config, run.uri, metrics)
    assert 'href="../report/index.html"' in Path(run.uri, PAGE).read_text()


def test_a_missing_picture_is_an_error_with_its_path(make_run: Any) -> None:
    run = make_run()
    metrics = write_comparison(Path(run.uri))
    storage.remove(f"{run.uri}/{metrics['portraits'][2]['variants']['male']}")
    with pytest.raises(FileNotFoundError, match=r"_variants/male/.*002\.jpg: no such file"):
        write_ablation(run.config, run.uri, metrics)


def test_a_value_that_no_seed_has_is_none() -> None:
    figures = {name: {"mean": 1.0, "sd": 0.1, "low": None, "high": None} for name in FIGURES} | {SHARE: None}
    row = table4_row({"variant": "neutral", "n": 3, "figures": figures})
    assert row["l1_interval"] is None
    assert (row["l1"], row["l1_sd"]) == (1.0, 0.1)
    assert row[SHARE] is row[f"{SHARE}_sd"] is row[f"{SHARE}_interval"] is None
