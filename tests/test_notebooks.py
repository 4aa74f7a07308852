"""Every notebook runs, and is kept without its outputs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support.forked_notebooks import ForkedNotebooks

import hapo_lit

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path):
    return json.loads(path.read_text())["cells"]


def test_the_notebooks_are_those_the_readme_names():
    assert [path.stem for path in NOTEBOOKS] == [
        *("01_one_group", "02_anneal_curves", "03_gate_posteriors", "04_prior_sweep", "05_bring_your_own")
    ]
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{path.stem}`" in readme for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_without_traces_of_a_machine(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        assert not cell["metadata"]
    text = path.read_text()
    assert not re.search(r"/(home|root|Users|tmp|work|opt|mnt|var)/|[A-Z]:\\\\", text)
    assert set(json.loads(text)["metadata"]) == {"kernelspec", "language_info"}
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_thin(path):
    """Code that needs a test is in the package."""
    code = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]
    assert max(text.count("\n") for text in code) <= 26
    assert sum(text.count("\n") + 1 for text in code) <= 130


# -- every notebook runs offline from top to bottom

SHORTER = {
    "01_one_group": {},
    "02_anneal_curves": {'"experiment=smoke"': '"experiment=smoke", "steps=12", "eval_every=4"'},
    "04_prior_sweep": {'"steps=90", "eval_every=30"': '"steps=9", "eval_every=3"', '"seed=0,1"': '"seed=0"'},
    "05_bring_your_own": {'"steps=60"': '"steps=6"', '"eval_every=20"': '"eval_every=3"'},
}
"""What is replaced in the cells, so that the runs that they start are short."""
IN_A_KERNEL = "03_gate_posteriors"
"""Executed as Jupyter does; a kernel takes seconds to start, so the others run without one."""


@pytest.fixture(scope="module")
def notebooks():
    pytest.importorskip("IPython", reason="pip install 'hapo_lit[dev]' brings what runs notebooks")
    with ForkedNotebooks() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.stem != IN_A_KERNEL], ids=lambda path: path.stem)
def test_a_notebook_runs(path, notebooks, tmp_path):
    executed = notebooks.execute(path, tmp_path, SHORTER[path.stem])
    assert not executed.error, executed.error
    assert executed.images


@pytest.mark.slow
def test_a_notebook_runs_in_a_kernel(tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install 'hapo_lit[dev]' brings what runs notebooks")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    package = str(Path(hapo_lit.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "notebooks" / f"{IN_A_KERNEL}.ipynb", as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
