"""Every notebook runs offline from top to bottom, and is kept without its outputs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

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
    """What is worth a test lives in the package."""
    code = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]
    assert max(text.count("\n") for text in code) <= 26
    assert sum(text.count("\n") + 1 for text in code) <= 130


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install 'hapo_lit[dev]' brings what runs notebooks")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for name in ("HAPO_RUN_FOLDER", "HAPO_SWEEP_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    package = str(Path(hapo_lit.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what a notebook makes goes away with the test
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
