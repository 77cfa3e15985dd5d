"""dropped.parquet, and the lines about it."""

from pathlib import Path

import pyarrow as pa
import pytest

from arspm.corpus import drops, schema, tables
from tests.jobs.conftest import arspm_in_process


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rows = [
        {"row": 3, "clip_id": "a_1_2", "reason": "no_face", "detail": "4 of 8 frames: no face found"},
        {"row": 5, "clip_id": None, "reason": "bad_row", "detail": "line 5: 3 columns"},
        {"row": 7, "clip_id": "b_1_2", "reason": "no_face", "detail": "8 of 8 frames: no face found"},
    ]
    table = pa.Table.from_pylist(rows, schema.dropped_schema())
    (tmp_path / "run" / "corpus").mkdir(parents=True)
    tables.write_table(f"{tmp_path}/run/corpus/{drops.DROPPED}", table, 2)
    return f"{tmp_path}/run/corpus"


def test_rows_of_a_reason_and_the_first_examples(corpus: str) -> None:
    assert [row["row"] for row in drops.dropped_rows(corpus)] == [3, 5, 7]
    assert [row["row"] for row in drops.dropped_rows(corpus, "no_face")] == [3, 7]
    assert drops.first_examples(corpus, [], 1) == {}
    assert drops.first_examples(corpus, ["no_face"], 1) == {
        "no_face": [{"row": 3, "clip_id": "a_1_2", "detail": "4 of 8 frames: no face found"}]
    }


def test_the_most_frequent_reason_comes_first_with_its_meaning_and_an_example(corpus: str) -> None:
    assert drops.describe_drops(corpus, {"bad_row": 1, "no_face": 2}) == [
        "2 no_face (no face was detected); row 3: 4 of 8 frames: no face found",
        "1 bad_row (wrong number of columns, or values out of range); line 5: 3 columns",
    ]


def test_the_command_prints_all_or_one_reason(corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = corpus.removesuffix("/corpus")
    assert arspm_in_process("drops", run) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no_face: a_1_2: row 3: 4 of 8 frames: no face found",
        "bad_row: -: line 5: 3 columns",
        "no_face: b_1_2: row 7: 8 of 8 frames: no face found",
    ]
    assert arspm_in_process("drops", run, "--reason", "bad_row") == 0
    assert capsys.readouterr().out == "bad_row: -: line 5: 3 columns\n"
    assert arspm_in_process("drops", run, "--reason", "boredom") == 1
    assert "boredom: there is no such reason; there are bad_row, missing_file" in capsys.readouterr().err
    assert arspm_in_process("drops", f"{run}/nothing") == 1
    assert capsys.readouterr().err.endswith(f"not a run, but inside one: did you mean {run}?\n")
