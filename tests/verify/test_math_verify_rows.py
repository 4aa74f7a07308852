"""math-verify's own rows, by the conventions that find and believe as much as it does."""

import ast
import math
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from hydra.utils import instantiate
from omegaconf import OmegaConf

import hapo_lit
from hapo_lit.verify import Checker

EXCEPTIONS = {
    "test_math_extraction_additional_cases[17]": "a phrase that contradicts the box wins there, the box here",
    "test_set_rel_assymetry[3]": "tests an argument that makes equality of relations and intervals one-sided",
    "test_numina_cases[24]": "its reference is a box that is never closed, which says nothing here",
    "test_strict_variable_comparison[1]": "tests an argument for which f(x) equals f(y)",
    "test_string_extraction[9]": "wants 1 - 1/e to equal 1 + 1/e",
}
LATEX_ONLY = ("test_latex_notation", "test_set_rel_assymetry")
"""Tests that look for answers between dollars only, as we do without the fallback ``number``."""


def math_verify_tests():
    """The tests in math-verify's source distribution, downloaded once."""
    folder = Path.home() / ".cache/hapo_lit/tests"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not list(folder.glob("math_verify-0.9.0.tar.gz")):
            source = ["math-verify==0.9.0", "--no-deps", "--no-binary", "math-verify", "--no-build-isolation"]
            command = [sys.executable, "-m", "pip", "download", "-q", "-d", str(folder), *source]
            done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
            if not list(folder.glob("math_verify-0.9.0.tar.gz")):
                if os.environ.get("CI"):
                    pytest.fail(f"math-verify's tests could not be had: {done.stderr[-500:]}")
                pytest.skip("math-verify's tests could not be had")
    with tarfile.open(folder / "math_verify-0.9.0.tar.gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            if re.search(r"/tests/test_\w+\.py$", member.name):
                yield archive.extractfile(member).read().decode()


def math_verify_rows():
    """(name, arguments) of each parametrised row that has a gold, a prediction and what is expected."""
    for text in math_verify_tests():
        for function in ast.walk(ast.parse(text)):
            for decorator in getattr(function, "decorator_list", []):
                if not isinstance(decorator, ast.Call) or not isinstance(decorator.args[0], ast.Constant):
                    continue
                names = [name.strip() for name in decorator.args[0].value.split(",")]
                if "gold" in names:
                    for number, row in enumerate(decorator.args[1].elts):
                        values = dict(zip(names, map(literal, row.elts), strict=True))
                        expected = values.pop("expected", values.pop("result", None))
                        yield f"{function.name}[{number}]", values | {"expected": bool(expected)}


def literal(node):
    """A constant, or one of the f-strings of math.sqrt that these tests have."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        assert "sqrt" in ast.unparse(node)
        return f"{math.sqrt(17):.15f}" if "math" in ast.unparse(node) else r"$\sqrt{17}$"


@pytest.mark.slow
def test_math_verifys_own_rows():
    """With the looser conventions, which find and believe as much as math-verify: 270 of 275."""
    loose = instantiate(
        OmegaConf.load(Path(hapo_lit.__file__).parents[1] / "conf/verifier/math_loose.yaml").conventions
    )
    rows = dict(math_verify_rows())
    asked = {}  # by conventions: names of rows
    for name, row in rows.items():
        conventions = loose
        if name.startswith(LATEX_ONLY):
            conventions = replace(conventions, fallbacks=tuple(r for r in loose.fallbacks if r != "number"))
        if "precision" in row:
            conventions = replace(conventions, decimal_digits=row["precision"])
        asked.setdefault(conventions, []).append(name)
    wrong = []
    for conventions, names in asked.items():
        checker = Checker(conventions)
        verdicts = checker([rows[name]["gold"] for name in names], [rows[name]["pred"] for name in names])
        wrong += [name for name, v in zip(names, verdicts, strict=True) if v.correct != rows[name]["expected"]]
        checker.close()
    assert len(rows) == 275
    assert sorted(wrong) == sorted(EXCEPTIONS)
    assert 1 - len(wrong) / len(rows) >= 0.98
