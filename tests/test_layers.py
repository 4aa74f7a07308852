"""What a program can check of the layout: imports go one way, and files, functions and names keep to the rules."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import hapo_lit

ROOT = Path(__file__).parent.parent
PACKAGE = Path(hapo_lit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))

LAYERS = [  # a file or folder at the top of the package may import what is in a line above it, and itself
    {"numerics"},
    {"storage", "schedules", "rows", "device_memory"},
    {"types"},
    {"errors"},
    {"protocols", "injection_law", "contracts"},
    {"gates", "injectors", "advantages", "weighting", "losses", "teacher", "verify"},
    {"algorithm"},
    {"policy", "data"},
    {"rollout"},
    {"training"},
    {"planning"},
    {"cli"},
    {"__main__"},
]
ASIDE = {"analysis": {"errors", "injection_law", "storage"}}
"""Reads run folders: it needs neither the parts of a run nor torch, and only ``cli`` imports it."""
NOT_AT_THE_BOTTOM = {
    **dict.fromkeys(("transformers", "tokenizers", "peft", "vllm", "datasets", "gguf", "reasoning_gym"), "policy"),
    "lightning": "training",
    "hydra": "cli",
    "omegaconf": "cli",
    "optuna": "training",
}
"""Third-party package -> where the first layer is that may import it."""
EXCEPTIONS = {("data/datamodule.py", "lightning")}
"""The datamodule is Lightning's."""
NEVER = {"math_verify", "trl"}
"""What tests and benchmarks compare with."""


@cache
def tree(path):
    return ast.parse(path.read_text())


def name_of(path):
    """The file or folder at the top of the package that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def level(name):
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def imports(path):
    """The modules that a file imports anywhere, also within functions and for types only."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "hapo_lit":
            yield from (f"hapo_lit.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module


def functions(path):
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


# -- imports ----------------------------------------------------------------------------------------------------------


def test_everything_at_the_top_of_the_package_has_a_layer():
    names = {name_of(path) for path in FILES}
    assert names == {*set().union(*LAYERS), *ASIDE, "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    name = name_of(path)
    allowed = {name} | ASIDE.get(name, set())
    if name not in (*ASIDE, "__init__"):
        allowed |= set().union(*LAYERS[: level(name)])
    if name == "cli":
        allowed |= {*ASIDE}
    for module in imports(path):
        package, _, rest = module.partition(".")
        if package == "hapo_lit":
            assert rest.partition(".")[0] in allowed, f"{name} imports {module}"
        assert package not in NEVER, f"{name} imports {module}"
        if (str(path.relative_to(PACKAGE)), package) in EXCEPTIONS:
            continue
        if package in NOT_AT_THE_BOTTOM:
            assert name not in ASIDE, f"{name} imports {module}"
            assert level(name) >= level(NOT_AT_THE_BOTTOM[package]), f"{name} imports {module}"
        if name in (*ASIDE, "__init__", "storage", "schedules", "injection_law"):
            assert package != "torch", f"{name} imports {module}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hapo_lit", {"torch", "transformers", "vllm", "datasets", "lightning", "hydra"}),
        ("hapo_lit.cli.report", {"torch", "transformers", "vllm", "datasets", "lightning", "hydra"}),
        ("hapo_lit.algorithm", {"transformers", "vllm", "datasets", "lightning", "hydra"}),
    ],
)
def test_what_is_imported_stays_light(module, absent):
    code = f"import sys, {module}; print(*sorted({absent} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


# -- rules ------------------------------------------------------------------------------------------------------------


def test_the_top_of_the_package_stays_small():
    assert len(list(PACKAGE.glob("*.py"))) <= 16


def test_no_module_is_named_for_what_does_not_fit_elsewhere():
    vague = {"utils", "util", "common", "helpers", "base", "misc"}
    for path in (*FILES, *TESTS, *BENCHMARKS):
        assert not {*path.relative_to(ROOT).with_suffix("").parts} & vague, path


def test_backward_passes_and_optimiser_steps_are_in_training_alone():
    for path in FILES:
        if name_of(path) != "training" and path.name != "memory_dry_run.py":  # its tensors have no contents
            assert ".backward(" not in path.read_text(), path
            assert ".step()" not in path.read_text(), path


def test_no_part_draws_from_a_global_generator():
    for path in FILES:
        for banned in ("torch.multinomial(", "np.random.seed", "random.seed(", "torch.rand(", "torch.randn("):
            assert banned not in path.read_text(), f"{path}: {banned}"


def test_the_papers_algorithm_is_one_page():
    (collect, *_) = (node for node in functions(PACKAGE / "algorithm.py") if node.name == "collect")
    assert collect.end_lineno - collect.lineno < 25
    assert not [node for node in ast.walk(collect) if isinstance(node, ast.If)]


def test_loop_variables_are_nouns():
    found = [
        f"{path}:{node.lineno}"
        for path in (*FILES, *TESTS, *BENCHMARKS)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == "each"
    ]
    assert not found


def test_no_file_has_more_than_350_lines_and_no_function_more_than_70():
    """A longer one is cut where its idea changes."""
    everything = (*FILES, *TESTS, *BENCHMARKS)
    assert not [str(path) for path in everything if len(path.read_text().splitlines()) > 350]
    sizes = [(path, node.name, node.end_lineno - node.lineno + 1) for path in everything for node in functions(path)]
    assert not [f"{path}: {name} has {lines} lines" for path, name, lines in sizes if lines > 70]


# -- tests ------------------------------------------------------------------------------------------------------------


def test_every_folder_of_the_package_has_a_folder_of_tests():
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert folders <= {path.name for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py"))}


def test_no_test_imports_from_a_test():
    for path in TESTS:
        for module in imports(path):
            assert not any(part.startswith("test_") or part in ("tests", "conftest") for part in module.split(".")), (
                f"{path} imports {module}"
            )
