"""The sections of a run's page besides Table 4: every value is in its cell, and missing values have a reason."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.report import published
from arspm.report.run_page import PAGE, write_report

SECTIONS = [
    "summary",
    "portraits",
    "table4",
    "judge",
    "probes",
    "retrieval",
    "recognition",
    "similarity",
    "length",
    "craniofacial",
    "prior",
    "training",
    "corpus",
    "provenance",
]

# Each body row of a table as the values of its <data> elements, null where a cell has none.
CELLS = (
    "rows => rows.map(r => [...r.cells].slice(1).map(c => { const d = c.querySelector('data'); "
    "return d ? parseFloat(d.value) : null; }))"
)


def cells(page: Any, table: str) -> list[list[float | None]]:
    return page.eval_on_selector_all(f"#{table} tbody tr", CELLS)


def caption(page: Any, table: str) -> str:
    return " ".join(page.locator(f"#{table} caption").inner_text().split())


def values(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[list[float | None]]:
    return [[row[name] for name in names] for row in rows]


def ends_shown(page: Any, table: str) -> list[list[str]]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr", "rows => rows.map(r => [...r.querySelectorAll('.ends')].map(e => e.innerText))"
    )


def test_every_value_is_in_its_cell(open_run: Any) -> None:
    opened, run = open_run
    page, m = opened.page, run.evaluated
    assert opened.messages == []
    assert page.eval_on_selector_all("main > section", "all => all.map(e => e.id)") == SECTIONS
    links = page.eval_on_selector_all("nav a", "all => all.map(e => e.hash.slice(1))")
    assert links == SECTIONS
    assert cells(page, "table5") == values(m["table5"], ("accuracy", "female", "male", "n", "unknown"))
    assert cells(page, "table6") == values(m["table6"], ("accuracy", "young", "mid_age", "elder", "n", "unknown"))
    for size in (100, 120):
        rows = [row for row in m["retrieval"] if row["gallery"] == size]
        assert cells(page, f"retrieval-{size}") == values(rows, ("r1", "r2", "r5", "r10", "n"))
    for number, space in enumerate(m["recognition"], 1):
        names = ("cosine", "l1", "l2", "r1", "r2", "r5", "r10", "n")
        assert cells(page, f"recognition-{number}") == values(space["rows"], names)
        assert cells(page, f"score-{number}") == values(space["scores"], ("score", "n"))
        caption = page.locator(f"#recognition-{number} caption").inner_text()
        assert f"in the space of {space['space']}, {space['about']}. Gallery: all 13 test identities." in caption
    assert cells(page, "published-recognition") == [[row.cosine, row.r10] for row in published.HQ_VOXCELEB]
    kinds = [m["similarity"][kind] for kind in ("real", "speech", "portrait")]
    assert cells(page, "similarities") == values(kinds, ("within", "between", "between_cosine"))
    assert cells(page, "lengths") == values(m["speech_length"], ("cos_degrees", "l2", "n"))
    pictures = ("real", "face-to-face", "neutral+fc", "num_speakers")
    for table, carried in (("carried", True), ("uncarried", False)):
        rows = [row for row in m["probes"] if row["carried"] is carried]
        assert cells(page, table) == values(rows, pictures)
        assert [len(row) for row in ends_shown(page, table)] == [3] * len(rows)
    assert cells(page, "measures") == values(m["craniofacial"]["rows"], ("r", "n"))
    assert "98.8 % of real faces and 77.5 % of portraits" in page.locator("#craniofacial").inner_text()


def test_published_results_of_recognition_have_their_caveat(open_run: Any) -> None:
    section = open_run.opened.page.locator("#recognition")
    text = " ".join(section.inner_text().split())
    for words in ("Speech2Face 0.213 8.7 %", "SF2F 0.295 29.8 %", "Vox2Face 0.322 32.1 %", "The setups differ"):
        assert words in text
    assert "HQ-VoxCeleb’s split" not in text
    assert section.locator("#no-recognizer").count() == 0


def test_the_oracle_is_called_a_bound_on_the_speech_feature_only(open_run: Any) -> None:
    page = open_run.opened.page
    assert "the oracle, a bound on the speech feature only" in page.locator("#summary").inner_text()
    assert "it does not bound that of portraits" in " ".join(page.locator("#oracle").inner_text().split())
    assert "bounds the speech feature only" in page.locator("#ours tbody tr").last.inner_text()


def test_intervals_are_shown_below_their_values(open_run: Any) -> None:
    page, run = open_run.opened.page, open_run.run
    for shown, row in zip(ends_shown(page, "lengths"), run.evaluated["speech_length"], strict=True):
        for text, name in zip(shown, ("cos_degrees", "l2"), strict=True):
            assert [float(end) for end in text.split(" – ")] == pytest.approx(row[f"{name}_interval"], abs=0.051)
    shown = ends_shown(page, "retrieval-100")
    assert [len(row) for row in shown] == [4, 4, 4, 0]  # the random row has no interval
    low, high = run.evaluated["retrieval"][0]["r1_interval"]
    assert shown[0][0] == f"{100 * low:.1f} – {100 * high:.1f} %"


def test_table1_and_figure2(open_run: Any) -> None:
    page, run = open_run.opened.page, open_run.run
    shown = cells(page, "table1")
    counts = page.eval_on_selector_all(
        "#table1 tbody th", "all => all.map(e => parseInt(e.innerText.replace(',', '')))"
    )
    assert counts == sorted(published.TABLE1)
    priors = storage.read_json(f"{run.uri}/report/metrics.json")["prior"]["priors"]
    for count, row in zip(counts, shown, strict=True):
        ours = [
            next((point["l1"] for point in priors[name]["convergence"] if point["n"] == count), None)
            for name in ("neutral", "female", "male")
        ]
        assert row == [*ours, *published.TABLE1[count]]
    strips = page.eval_on_selector_all(
        ".strip", "all => all.map(e => [...e.querySelectorAll('figcaption')].map(c => c.innerText))"
    )
    assert strips == [["10", "50", "100", "500", "1,200"]] * 3
    assert page.eval_on_selector_all(".strip img", "all => all.every(e => e.naturalWidth === 64)")
    assert "identifies no one" in page.locator("#prior").inner_text()


def test_the_page_shows_the_oracle_and_the_fraction_learnt(open_run: Any) -> None:
    page = open_run.opened.page
    sentence = "It closes 63.1 % (95 %: 50.2 – 70.4 %) of the gap between the prior alone and the oracle"
    assert sentence in page.locator("#summary").inner_text()
    rows = page.locator("#ours tbody tr")
    assert "63.1 %" in rows.first.inner_text()
    assert "oracle" in rows.last.inner_text()
    note = page.locator("#oracle").inner_text()
    assert "13 synthetic speakers" in note
    assert "4.3° apart" in note


def test_the_page_shows_the_accuracy_of_the_gender_classifier(open_run: Any) -> None:
    page = open_run.opened.page
    text = " ".join(page.locator("#gender").inner_text().split())
    for words in (
        "93.8 % of the training clips",
        "87.5 % of the validation",
        "86.2 % (95 %: 70.0 – 95.0 %) of 58 labelled",
    ):
        assert words in text


def test_the_page_says_where_the_sex_is_predicted(make_run: Any, open_page: Any, open_run: Any) -> None:
    """Where a model of one sex is measured, where means are taken, and where a judge is compared with the sex."""
    opened = open_page(make_run(predicted=True), 390, "dark")
    assert opened.messages == []
    page = opened.page
    assert "of the model’s sex, out of 41, all with a predicted sex" in page.locator(".facts").inner_text()
    assert "all with a predicted sex" in page.locator(".facts", has_text="Sex of portraits").inner_text()
    assert "20 clips of the model’s sex of the test split, all with a predicted sex." in caption(page, "ours")
    text = page.locator("#prior").inner_text()
    assert "The female prior is the mean of 700 faces, 690 of them with a predicted sex." in text
    assert "The male prior is the mean of 500 faces, all with a predicted sex." in text
    assert cells(page, "labels") == [[12, 1100, 88], [0, 30, 0], [0, 38, 3]]
    assert "with a confidence of 0.8 or more" in caption(page, "labels")
    assert "The sex of 38 of these 38 clips is predicted from the voice, not labelled" in caption(page, "table5")
    training = page.locator("#training").inner_text()
    assert "The network of another run is used: /runs/vox1/gender/model.safetensors" in training
    assert "Accuracy of the gender classifier" not in training  # no label to measure it on
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    labelled = open_run[0].page
    assert "with a predicted sex" not in labelled.locator("main").inner_text()
    assert labelled.locator("#labels").count() == 0


def test_the_page_of_an_older_run_lists_missing_measurements(make_run: Any, open_page: Any) -> None:
    opened = open_page(make_run(older=True), 390)
    assert opened.messages == []
    page = opened.page
    for section in ("judge", "probes", "retrieval", "recognition", "similarity", "length", "craniofacial", "prior"):
        assert "evaluated by an older version" in page.locator(f"#{section}").inner_text(), section
    assert "No oracle row" in page.locator("#oracle").inner_text()
    assert "Fraction learnt" not in page.locator("#ours").inner_text()
    assert page.locator("#table5").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_an_ablation_is_linked_if_it_exists(open_run: Any, make_run: Any) -> None:
    assert open_run.opened.page.locator("#ablation").count() == 0
    run = make_run()
    storage.write_json(f"{run.uri}/ablation/metrics.json", {})
    write_report(run.config, run.uri, None)
    assert '<a href="../ablation/index.html">' in Path(run.uri, PAGE).read_text()


def test_the_published_totals_are_consistent_with_their_parts() -> None:
    for row in published.TABLE5:  # a single fraction of men explains all totals of Table 5
        assert (row.accuracy - row.female) / (row.male - row.female) == pytest.approx(0.597, abs=0.012), row.model
    for row in published.TABLE6:  # section 4.3.3: about 35 % young, 55 % mid-age, 10 % elder
        total = 0.35 * row.young + 0.55 * row.mid_age + 0.1 * row.elder
        assert row.accuracy == pytest.approx(total, abs=0.026), row.model
    assert published.row(published.TABLE5, "face-to-face") is published.TABLE5[0]
    assert published.row(published.TABLE6, "gender") is None


def test_the_published_l1_and_l2_of_table_4_are_consistent() -> None:
    """For dense 4096-dimensional features, L1 / L2 is about sqrt(2 / pi) * 64 = 51.06 (reading H). Detects typos."""
    pairs = [(row.l1, row.l2) for row in published.TABLE4] + [
        (row.portrait_l1, row.portrait_l2) for row in published.TABLE4
    ]
    ratios = [l1 / l2 for l1, l2 in pairs if l1 is not None and l2 is not None]
    assert len(ratios) == 15
    assert all(51.15 < ratio < 51.55 for ratio in ratios), ratios
