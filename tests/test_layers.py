"""The laws of the house that a program can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hapo_lit

ROOT = Path(hapo_lit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LAYERS = [  # each may import what stands above it, and what stands beside it in its own folder
    {"errors", "types", "rows", "schedules", "numerics", "storage", "training.metric_names", "__init__"},
    {"protocols", "injection_law"},
    {"gates", "injectors", "advantages", "weighting", "losses", "teacher", "verify"},
    {"algorithm", "training.phases", "training.metrics"},
    {"policy", "rollout", "data"},
    {"training", "data.datamodule", "planning"},
    {"cli", "__main__"},
]
HEAVY = {
    "torch": 0,
    "numpy": 0,
    "transformers": 4,
    "tokenizers": 4,
    "peft": 4,
    "vllm": 4,
    "datasets": 4,
    "gguf": 4,
    "reasoning_gym": 4,
    "lightning": 5,
    "hydra": 6,
    "omegaconf": 6,
    "math_verify": 2,
    "latex2sympy2_extended": 2,
}
"""Third-party package -> first layer that may import it."""
BESIDE_ANALYSIS = {"analysis", "errors", "injection_law", "storage"}
"""What analysis may import: it reads run folders, and needs neither their parts nor torch."""


def room(path):
    """The name of a file's room: ``verify`` for all of ``verify/*``, but ``data.prompts`` for its layer-3 files."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    dotted = ".".join(parts)
    return dotted if any(dotted in layer for layer in LAYERS) else parts[0]


def level(name):
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "hapo_lit":
            yield from (f"hapo_lit.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize(
    "path", [path for path in FILES if room(path) != "analysis"], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_one_way(path):
    mine = level(room(path))
    for module in imports(path):
        package, _, rest = module.partition(".")
        if package == "hapo_lit" and rest:
            other = ROOT / (rest.replace(".", "/") + ".py")
            name = room(other) if other.is_file() else rest.split(".")[0]
            if name == "analysis":
                assert mine == level("cli")
                continue
            assert level(name) <= mine, f"{room(path)} imports {name}"
            if level(name) == mine == 2:
                assert name.split(".")[0] == room(path).split(".")[0], "components never import one another"
        elif package in HEAVY:
            assert mine >= HEAVY[package], f"{room(path)} imports {package}"


def test_analysis_stands_aside():
    files = sorted((ROOT / "analysis").glob("*.py"))
    assert len(files) > 5
    for path in files:
        for module in imports(path):
            package = module.partition(".")[0]
            assert package not in {*HEAVY} - {"numpy"}, f"{path.name} imports {module}"
            assert package != "hapo_lit" or module.split(".")[1] in BESIDE_ANALYSIS, f"{path.name} imports {module}"


def test_a_report_needs_no_framework():
    code = "import sys, hapo_lit.cli.report; print({'torch', 'transformers', 'lightning', 'hydra'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )


def test_heavy_things_stay_at_the_edge():
    code = "import sys, hapo_lit; print({'torch', 'transformers', 'vllm', 'datasets', 'hydra'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "set()"
    )


def test_gradients_have_one_room():
    for path in FILES:
        text = path.read_text()
        if path.name not in ("module.py", "memory_dry_run.py"):  # the latter's tensors have no contents
            assert "backward(" not in text, path
            assert ".step()" not in text, path


def test_no_room_without_a_name_and_no_random_state_of_all():
    for path in FILES:
        assert path.stem not in {"utils", "common", "helpers", "base", "misc"}
        for banned in ("torch.multinomial(", "np.random.seed", "random.seed(", "torch.rand(", "torch.randn("):
            assert banned not in path.read_text(), f"{path}: {banned}"


def test_the_papers_algorithm_is_one_page():
    source = (ROOT / "algorithm.py").read_text()
    collect = next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "collect"
    )
    assert collect.end_lineno - collect.lineno < 25
    assert not [node for node in ast.walk(collect) if isinstance(node, ast.If)]
