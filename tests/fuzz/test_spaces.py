"""A sweep's search space in a user's Python file, which is trusted to run but may contain errors."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import marshal
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

import tune_spaces
from arspm.config import from_dict, override
from arspm.config.presets import preset
from arspm.runs import stages
from jobs.sweep_options import Options
from jobs.sweep_plan import plan
from tests.fuzz.entry_points import Mutated, num_inputs, try_inputs
from tests.fuzz.mutations import BYTES, ODD_TEXTS, Mutation
from tune_spaces import space as spaces

pytestmark = pytest.mark.slow  # thousands of inputs, each in a child process

OWN = b"""
from tune_spaces.loss_weights import SPACE as WEIGHTS
from tune_spaces.space import Choice, LogUniform, Space, Uniform

SPACE: Space = {
    **WEIGHTS,
    "training.encoder.learning_rate": LogUniform(1e-4, 1e-2),
    "training.encoder.beta1": Uniform(0, 0.9),
    "training.encoder.augment": Choice([True, False]),
    ("prior.kind", "speech_encoder.fusion"): Choice({"alone": ("none", "fc"), "mean": ("neutral", "sum")}),
    ("speech_encoder.head", "seed"): Choice([("fc2", 1), ("fc2", 2)]),
}
"""
SEEDS = (OWN, *(Path(*tune_spaces.__path__, f"{name}.py").read_bytes() for name in spaces.shipped()))
NAMES = b"from tune_spaces.space import Choice, LogUniform, Space, Uniform\n"

# Python expressions that may replace a value, most of them invalid there.
ODD = (
    *(repr(text) for text in ODD_TEXTS),
    *("float('nan')", "float('inf')", "-1e308", "1e308", "5e-324", "10**400", "10**5000", "-(2**63)", "1j", "0", "-1"),
    *("None", "True", "...", "b'abc'", "object()", "type", "lambda: 0", "print", "Choice", "Uniform", "LogUniform"),
    *("Uniform(0, 1)", "Uniform(1, 0)", "LogUniform(0, 1)", "Uniform('a', 'b')", "LogUniform(-1e308, 1e308)"),
    *("Uniform(-1e308, 1e308)", "LogUniform(5e-324, 1e308)", "Uniform(2**53, 2**53 + 1)", "Uniform(None, [])"),
    *("Choice([])", "Choice({})", "Choice([[1]])", "Choice([Choice([1])])", "Choice('abc')", "Choice(b'abc')"),
    *("Choice(range(3))", "Choice(range(10**12))", "Choice(range(10**30))", "Choice(list(range(2000)))"),
    *("Choice(list(range(20000)))", "Choice([0] * 200000)", "Choice([{}] * 20000)", "Choice(['x' * 10**6])"),
    *("Choice([str(n) for n in range(20000)])", "Choice({str(n): n for n in range(20000)})", "Choice([None, 'null'])"),
    *("Choice({'x' * 10**6: 1})", "Choice({1: 1, None: 2})", "Choice([1, 1.0, True, '1'])", "Choice(iter([1]))"),
    *("Choice([10**5000])", "Choice([float('nan')] * 3)", "Choice([('none', 'fc')])", "Choice(['nan', '1e999'])"),
    *("[]", "{}", "()", "[[[]]]", "{'a': {'b': []}}", "(1,)", "[1, 2, 3]", "{1, 2}", "'x' * 10**7", "[0] * 10**6"),
    *("{f'x{n}': Uniform(0, 1) for n in range(2000)}", "{(f'x{n}',) * 30: Choice([0]) for n in range(99)}"),
    *("{'x' * 10**6: Uniform(0, 1)}", "{('seed',) * 10**5: Choice([1])}", "{'seed': Choice(['y' * 10**6])}"),
    *(
        "{'loss.lambda1': Choice([f'x{n}' for n in range(3000)])}",
        "{'loss.lambda1': Choice([-n for n in range(4000)])}",
    ),
    *("{f'loss.lambda{n}': Choice([m / 100 for m in range(100)]) for n in (1, 2, 3)}",),
)


# Python expressions that are often valid there.
MILD = ("0.5", "1", "2", "'none'", "'neutral'", "'0.25'", "False", "(1, 2)", "Uniform(0.1, 2)", "LogUniform(0.01, 3)")
MILD += (
    "Choice([1, 2])",
    "Choice(['none', 'neutral'])",
    "Choice({'a': ('none', 'fc')})",
    "Choice((0.5, 1))",
    "Choice(range(3))",
)


def odd_value(rng: Random) -> str:
    return rng.choice(rng.choice((MILD, ODD)))


def value(rng: Random, data: bytes, _: bytes) -> bytes:
    """Replace an expression by another one, and import the names that it needs."""
    try:
        tree = ast.parse(data)
    except SyntaxError as error:
        raise ValueError(error) from None  # too damaged for this mutation
    positions = [
        (each, at)
        for node in ast.walk(tree)
        for _, each in ast.iter_fields(node)
        if isinstance(each, list)
        for at, child in enumerate(each)
        if isinstance(child, ast.expr)
    ]
    among, at = rng.choice(positions)
    odd = ast.parse(odd_value(rng), mode="eval").body
    among[at : at + rng.choice((0, 1, 1, 1, 1))] = [rng.choice((odd, odd, odd, rng.choice(among)))]
    program = ast.unparse(ast.fix_missing_locations(tree)).replace("from __future__ import annotations", "")
    return NAMES + program.encode()


def token(rng: Random, data: bytes, other: bytes) -> bytes:
    """Replace a name, number or string, or swap two of them."""
    try:
        words = [list(each[:2]) for each in tokenize.tokenize(io.BytesIO(data).readline)]
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(error) from None
    known = [at for at, (kind, _) in enumerate(words) if kind in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING)]
    one, two = rng.choice(known), rng.choice(known)
    words[one][1], words[two][1] = words[two][1], rng.choice((words[one][1], odd_value(rng)))
    return tokenize.untokenize([tuple(each) for each in words])


MUTATIONS: tuple[Mutation, ...] = (*BYTES, *[value] * 60, *[token] * 15)


@pytest.fixture
def run(write_corpus: Callable[..., Any], tmp_path: Path) -> Path:
    """A run with the finished stages that a sweep's plan needs."""
    write_corpus({"train": (13, 11), "val": (6,)}, feature_dim=64)
    for stage in ("gender", "prior", "decoder"):
        files: dict[str, Any] = {}
        config = preset("smoke")
        stages.commit(str(tmp_path), stage, fingerprint="f", config=config, files=files, seconds=1.0, figures={})
    return tmp_path


def space_file(path: Path, run: Path) -> None:
    """Plan a sweep over the space, and check the plan."""
    _, sweep = plan(str(run), str(path), Options(), {})
    assert json.loads(json.dumps(sweep, allow_nan=False)) == sweep
    space, base = spaces.unpack(sweep["dimensions"]), from_dict(sweep["config"])
    assert spaces.describe(space) == sweep["space"]
    for sample in spaces.random_samples(space, 5, 0):
        assert json.loads(json.dumps(sample, allow_nan=False)) == sample
        found = override(base, spaces.changes(space, sample))
        assert len(spaces.sample_of(space, found)) == len(space)
        assert found.training.encoder.epochs <= sweep["epochs"]
    if sweep["search"] == "grid":
        every = spaces.grid(space)
        assert len(every) == len({json.dumps(each) for each in every}) == sweep["num_trials"]


def test_files_of_spaces(run: Path) -> None:
    tally = try_inputs(space_file, Mutated(SEEDS, MUTATIONS, num_inputs(80)), name="my_space.py", run=run)

    assert min(tally["refused"], tally["accepted"]) > tally.total() // 10


def test_odd_values_in_every_position(run: Path) -> None:
    forms = ("{}", "{{'loss.lambda1': {}}}", "{{'loss.lambda1': Uniform(0, {})}}")
    forms += ("{{'training.encoder.epochs': Choice([{}, 3])}}", "{{('seed', {}): Choice([(1, 1)])}}")
    inputs = [NAMES + f"SPACE = {form.format(text)}".encode() for form in forms for text in ODD]
    tally = try_inputs(space_file, inputs, name="my_space.py", run=run)
    assert tally["refused"] > tally["accepted"] > 0


def test_invalid_programs_are_refused(run: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", OWN)
    compiled = importlib.util.MAGIC_NUMBER + bytes(12)
    inputs = [archive.getvalue(), OWN + archive.getvalue(), compiled, compiled + bytes(range(256)) * 4]
    inputs += [compiled + marshal.dumps(compile(OWN, "x", "exec")), compiled + b"\xdb\xff\xff\xff\x7f" * 20]
    inputs += [
        b"",
        b"\0",
        OWN + b"\0",
        OWN.decode().encode("utf-16"),
        b"# coding: nothing\n" + OWN,
        b"x = '\xff'\n" + OWN,
    ]
    inputs += [b"# coding: zlib\n" + OWN, b"# coding: unicode_escape\nx = '\\x'\n" + OWN, b"\xff\xfe" + OWN]
    inputs += [
        b"(" * 100_000,
        b"-" * 100_000 + b"1",
        b"x" + b".x" * 100_000,
        b"f" + b"()" * 100_000,
        b"[" * 90 + b"]" * 90,
    ]
    inputs += [
        b"if 1:\n" + b"".join(b" " * n + b"if 1:\n" for n in range(1, 200)),
        b"x = " + b"9" * 10_000,
        b"lambda:" * 50_000,
    ]
    inputs += [
        b"x = " + b"1 + " * 100_000 + b"1",
        b"x" * 100_000,
        b"raise ValueError('\\x1b[31m' * 9999)",
        b"raise ValueError",
    ]
    inputs += [
        b"raise KeyError('s3://user:pass-word@bucket')",
        b"def f(): f()\nf()",
        b"raise SystemExit(3)",
        b"1 / 0",
        b"SPACE",
    ]
    inputs += [b"class E(Exception):\n __str__ = lambda s: 1 / 0\nraise E", b"x = [0] * 10**12", b"raise MemoryError"]
    tally = try_inputs(space_file, inputs, name="my_space.py", run=run)
    assert tally["refused"] == len(inputs), tally
