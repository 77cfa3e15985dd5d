from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from arspm.evaluation import judges
from arspm.evaluation.judges import Judged, Pictures, age_bins, fit_judge, make_judge, table5, table6
from arspm.media.jpeg import encode_jpeg

FEMALE, MALE, NO_CLASS = 0, 1, -1
YOUNG, MID_AGE, ELDER = 0, 1, 2


def pictures(clip_ids=(), name: str = "real", features=None, jpegs=()) -> Pictures:
    return Pictures(name, list(clip_ids), np.empty((len(clip_ids), 4)) if features is None else features, list(jpegs))


def said(gender=(), age_bin=()) -> Judged:
    size = max(len(gender), len(age_bin))
    return Judged(*(np.array(each if len(each) else [NO_CLASS] * size) for each in (gender, age_bin)))


def test_the_bins_are_those_of_table_6():
    ages = np.array([0, 20, 34.99, 35, 50, 65, 65.01, 80, np.nan])
    expected = [YOUNG, YOUNG, YOUNG, MID_AGE, MID_AGE, MID_AGE, ELDER, ELDER, NO_CLASS]
    assert age_bins(ages).tolist() == expected


# --- Tables 5 and 6


def test_accuracy_of_the_predicted_sex():
    genders = np.array([0, 0, 0, 1, 1, 1, 1, 1, -1, -1])
    judged = {
        "real": said([0, 0, 1, 1, 1, 1, 0, 1, 1, -1]),
        "none right": said([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]),
        "some unknown": said([0, -1, 0, -1, 1, 1, -1, 0, -1, 0]),
    }
    table = table5(judged, genders, np.arange(10) // 2, num_resamples=200, seed=0)
    real, none_right, some_unknown = table
    assert [row["pictures"] for row in table] == [*judged]
    assert (real["n"], real["accuracy"], real["unknown"]) == (8, 6 / 8, 0)
    assert (real["female"], real["male"]) == (2 / 3, 4 / 5)
    low, high = real["accuracy_interval"]
    assert 0.5 <= low < 0.75 < high <= 1
    assert (none_right["accuracy"], none_right["accuracy_interval"]) == (0, [0, 0])
    # no prediction counts as wrong; the two clips without a label are left out
    assert (some_unknown["accuracy"], some_unknown["female"], some_unknown["male"]) == (4 / 8, 2 / 3, 2 / 5)
    assert some_unknown["unknown"] == 3
    json.dumps(table, allow_nan=False)


def test_accuracy_of_the_predicted_age_bin():
    ages = np.array([20, 34, 40, 50, 65, 70, np.nan])
    judged = {"real": said(age_bin=[0, 1, 1, 1, 2, 2, 2])}
    (row,) = table6(judged, ages, np.arange(7), num_resamples=200, seed=0)
    assert (row["pictures"], row["n"], row["accuracy"], row["unknown"]) == ("real", 6, 4 / 6, 0)
    assert (row["young"], row["mid_age"], row["elder"]) == (1 / 2, 2 / 3, 1)
    assert (row["num_young"], row["num_mid_age"], row["num_elder"]) == (2, 3, 1)
    low, high = row["accuracy_interval"]
    assert low < 4 / 6 < high
    json.dumps(row, allow_nan=False)


def test_accuracy_of_an_absent_class_and_interval_of_one_speaker_are_none():
    (row,) = table5({"x": said([1, 1, 1])}, np.array([1, 1, 1]), np.zeros(3), num_resamples=10, seed=0)
    assert row["female"] is None
    assert row["accuracy_interval"] is None
    assert row["male"] == 1
    (row,) = table6({"x": said(age_bin=[1, 1])}, np.array([40.0, 41.0]), np.zeros(2), num_resamples=10, seed=0)
    assert (row["young"], row["mid_age"], row["elder"], row["num_elder"]) == (None, 1, None, 0)


def test_pictures_without_predictions_have_no_row():
    judged = {"judged": said([1, -1]), "not judged": said([-1, -1])}
    table = table5(judged, np.array([1, 1]), np.arange(2), num_resamples=10, seed=0)
    assert [(row["pictures"], row["unknown"]) for row in table] == [("judged", 1)]
    assert table6(judged, np.array([30.0, 40.0]), np.arange(2), num_resamples=10, seed=0) == []
    assert table5(judged, np.array([-1, -1]), np.arange(2), num_resamples=10, seed=0) == []


# --- classifier trained on labelled faces


def training(seed: int = 0):
    """Features of which number 4 depends on sex and number 7 on age; the others are noise of the same size."""
    rng = np.random.default_rng(seed)
    genders = np.repeat([0, 1], [300, 100])
    ages = rng.uniform(20, 80, 400)
    values = rng.standard_normal((400, 30)) * 10 + 40
    values[:, 4] += 50 * genders
    values[:, 7] += 2 * ages
    return values.astype(np.float16), genders, ages


def test_the_classifier_learns_both_attributes():
    features, genders, ages = training()
    half = slice(None, None, 2)
    judge = make_judge("classifier", features=features[half], genders=genders[half], ages=ages[half])
    other = slice(1, None, 2)
    gender, age_bin = judge(pictures(["x"] * 200, features=features[other]))
    right = gender == genders[other]
    assert right.mean() > 0.85
    assert right[genders[other] == 1].mean() > 0.8  # also the rarer class
    right = age_bin == age_bins(ages[other])
    for number in (YOUNG, MID_AGE, ELDER):
        assert right[age_bins(ages[other]) == number].mean() > 0.6
    assert judge.description == (
        "logistic regression on VGGFace features: sex from 200 training faces, age from 200 training faces"
    )


def test_unlabelled_rows_are_not_used_for_training():
    features, genders, ages = training()
    unlabelled = genders.copy()
    unlabelled[::3] = NO_CLASS
    ages[::4] = np.nan
    judge = make_judge("classifier", features=features, genders=unlabelled, ages=ages)
    assert "sex from 266 training faces, age from 300 training faces" in judge.description
    known = unlabelled != NO_CLASS
    alone = fit_judge(features[known].astype(np.float32), genders[known])
    judged = judge(pictures(["x"] * 400, features=features)).gender
    np.testing.assert_array_equal(judged, alone.predict(features.astype(np.float32)))


def test_an_attribute_without_labels_is_not_predicted():
    features, genders, ages = training()
    no_genders, no_ages = np.full(400, NO_CLASS), np.full(400, np.nan)
    real = pictures(["x"] * 400, features=features)
    judge = make_judge("classifier", features=features, genders=genders, ages=no_ages)
    judged = judge(real)
    assert set(judged.gender) == {0, 1}
    assert set(judged.age_bin) == {NO_CLASS}
    assert "age" not in judge.description
    judged = make_judge("classifier", features=features, ages=ages)(real)
    assert set(judged.gender) == {NO_CLASS}
    assert set(judged.age_bin) == {0, 1, 2}
    assert make_judge("classifier", features=features, genders=no_genders, ages=no_ages) is None
    assert make_judge("classifier", features=features, genders=np.ones(400, int)) is None  # only one sex


@pytest.mark.parametrize("setting", ["", "judge.txt", "Classifier", "face++"])
def test_an_unknown_setting_is_an_error(setting):
    with pytest.raises(ValueError, match=r"expected 'classifier', or the path of a \.csv or \.onnx file"):
        make_judge(setting)


# --- predictions from a CSV file

HEADER = "clip_id,pictures,gender,age\n"


def csv_of(tmp_path, text: str):
    path = tmp_path / "predictions.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_csv_predictions_are_looked_up_by_clip_and_kind(tmp_path):
    text = (
        "\ufeff Pictures ,clip_id,age,gender\r\n"
        "real,b,40, Male \r\n"
        'real,"a,1",34.5,f\r\n'
        "\r\n"
        "neutral+fc,b,66,female\r\n"
        "real,c,,m\r\n"
        "real,d,70,\r\n"
        "real,of another corpus,1,f\r\n"
    )
    judge = make_judge(csv_of(tmp_path, text))
    judged = judge(pictures(["a,1", "b", "c", "d"]))
    assert judged.gender.tolist() == [FEMALE, MALE, MALE, NO_CLASS]
    assert judged.age_bin.tolist() == [YOUNG, MID_AGE, NO_CLASS, ELDER]
    assert judge.description == "predictions of predictions.csv"
    judged = judge(pictures(["a,1", "b"], name="neutral+fc"))
    assert (judged.gender.tolist(), judged.age_bin.tolist()) == ([NO_CLASS, FEMALE], [NO_CLASS, ELDER])


def test_missing_predictions_are_unknown_and_the_description_says_so(tmp_path):
    judge = make_judge(csv_of(tmp_path, HEADER + "a,real,f,30\nb,real,,\n"))
    judged = judge(pictures(["a", "b", "c"]))
    assert (judged.gender.tolist(), judged.age_bin.tolist()) == ([FEMALE, -1, -1], [YOUNG, -1, -1])
    judge(pictures(["a"], name="face-to-face"))
    assert judge.description == (
        "predictions of predictions.csv; predictions missing for 2 of 3 real pictures, 1 of 1 face-to-face pictures"
    )


def test_every_problem_has_its_line(tmp_path):
    lines = [
        "a,real,woman,30",
        "b,real,f,old",
        "c,real,f,130",
        "d,real,f",
        "a,real,m,40",
        ",real,m,40",
        "e,,m,40",
        "f,real,m,nan",
        "g,real,m,40",
    ]
    path = csv_of(tmp_path, HEADER + "\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="predictions") as error:
        make_judge(path)
    assert str(error.value).splitlines() == [
        f"{path}: line 2: gender 'woman' is not female, male, f or m",
        f"{path}: line 3: age 'old' is not a number from 0 to 120",
        f"{path}: line 4: age '130' is not a number from 0 to 120",
        f"{path}: line 5: 3 columns, the header has 4",
        f"{path}: line 6: second row for a of real; remove one",
        f"{path}: line 7: clip_id and pictures must not be empty",
        f"{path}: line 8: clip_id and pictures must not be empty",
        f"{path}: line 9: age 'nan' is not a number from 0 to 120",
    ]


def test_only_the_first_problems_are_shown(tmp_path):
    path = csv_of(tmp_path, HEADER + "".join(f"{n},real,?,\n" for n in range(100)))
    with pytest.raises(ValueError, match="predictions") as error:
        make_judge(path)
    shown = str(error.value).splitlines()
    assert len(shown) == 21
    assert shown[-1] == f"{path}: and 80 more problems"


@pytest.mark.parametrize(
    "text", ["", "a,real,f,30\n", "clip_id,pictures,gender\n", HEADER.replace("age", "age,age"), "clip_id;pictures\n"]
)
def test_a_wrong_header_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"predictions\.csv: the header must name clip_id,pictures,gender,age, not"):
        make_judge(csv_of(tmp_path, text))


def test_a_missing_or_unreadable_csv_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions at"):
        make_judge(str(tmp_path / "none.csv"))
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\x89PNG\xfe\x00binary")
    with pytest.raises(ValueError, match=r"binary\.csv: not a table in UTF-8 or UTF-16"):
        make_judge(str(path))
    with pytest.raises(ValueError, match=r"predictions\.csv: not a table"):
        make_judge(csv_of(tmp_path, HEADER + 'a,real,"f,30\n'))


# --- ONNX model


def test_an_onnx_model_predicts_sex_and_age(tmp_path):
    """The model maps red to female, blue to male, and green to age: fully green is 100 years."""
    genders = np.array([[1, 0], [0, 0], [0, 1]], np.float32)
    path = _onnx_judge(tmp_path / "judge.onnx", gender=genders, age=[[0], [100], [0]])
    colours = [(255, 20, 0), (0, 128, 255), (255, 230, 0), (0, 230, 255)]
    jpegs = [encode_jpeg(np.full((48, 48, 3), colour, np.uint8)) for colour in colours]
    judge = make_judge(str(path))
    judged = judge(pictures("abcd", jpegs=jpegs))
    assert judged.gender.tolist() == [FEMALE, MALE, FEMALE, MALE]
    assert judged.age_bin.tolist() == [YOUNG, MID_AGE, ELDER, ELDER]
    assert judge.description == "judge.onnx, which predicts gender and age"


def test_an_onnx_model_may_predict_only_one_attribute(tmp_path):
    jpegs = [encode_jpeg(np.full((48, 48, 3), grey, np.uint8)) for grey in (50, 200)]
    only_age = make_judge(str(_onnx_judge(tmp_path / "age.onnx", age=[[0], [100], [0]])))
    judged = only_age(pictures("ab", jpegs=jpegs))
    assert (judged.gender.tolist(), judged.age_bin.tolist()) == ([NO_CLASS] * 2, [YOUNG, ELDER])
    assert only_age.description == "age.onnx, which predicts age"
    only_sex = make_judge(str(_onnx_judge(tmp_path / "sex.onnx", gender=[[0, 1]] * 3)))
    judged = only_sex(pictures("ab", jpegs=jpegs))
    assert (judged.gender.tolist(), judged.age_bin.tolist()) == ([MALE] * 2, [NO_CLASS] * 2)


def test_outputs_that_are_not_finite_are_no_predictions(tmp_path):
    path = _onnx_judge(tmp_path / "judge.onnx", gender=[[1, np.nan]] * 3, age=[[np.inf]] * 3)
    judged = make_judge(str(path))(pictures("a", jpegs=[encode_jpeg(np.full((48, 48, 3), 99, np.uint8))]))
    assert (judged.gender.tolist(), judged.age_bin.tolist()) == ([NO_CLASS], [NO_CLASS])


def test_the_setting_selects_the_judge(tmp_path):
    features, genders, _ = training()
    judge = make_judge("classifier", features=features, genders=genders)
    assert isinstance(judge, judges.ClassifierJudge)
    assert isinstance(make_judge(csv_of(tmp_path, HEADER)), judges.CsvJudge)
    assert isinstance(make_judge(str(_onnx_judge(tmp_path / "J.ONNX", age=[[1]] * 3))), judges.OnnxJudge)


def _onnx_judge(path, **weights):
    """Write a model of 16x16 pictures whose outputs are the channel means times a matrix."""
    nodes = [helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0)]
    constants, results = [], []
    for name, rows in weights.items():
        matrix = np.array(rows, np.float32)
        constants.append(numpy_helper.from_array(matrix, f"{name} weights"))
        nodes.append(helper.make_node("MatMul", ["means", f"{name} weights"], [name]))
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", matrix.shape[1])))
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", 3, 16, 16))]
    graph = helper.make_graph(nodes, "judge", inputs, results, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_other_columns_are_ignored(tmp_path):
    """`arspm pictures` writes a table with a column for each picture's file."""
    path = tmp_path / "index.csv"
    path.write_text("clip_id,pictures,file,gender,age\na,real,real/a.jpg,f,30\nb,real,real/b.jpg,,\n")
    judged = make_judge(str(path))(Pictures("real", ["a", "b"], np.zeros((2, 4)), []))
    assert judged.gender.tolist() == [0, -1]
    assert judged.age_bin.tolist() == [0, -1]
