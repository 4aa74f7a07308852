"""The wheel: built, installed into an environment without this checkout, run from another folder; and its version."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import hapo_lit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_carries_the_configuration_and_the_types_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "hapo_lit/py.typed" in names
    shipped = {name.removeprefix("hapo_lit/conf/") for name in names if name.startswith("hapo_lit/conf/")}
    assert shipped == {str(path.relative_to(ROOT / "conf")) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name.split("/")[0] for name in names} <= {"hapo_lit", wheel.name.split("-py3")[0] + ".dist-info"}


@pytest.mark.slow
def test_an_installed_wheel_works_from_any_folder(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env/bin/python"
    site = tmp_path / "env" / Path(sysconfig.get_path("purelib", vars={"base": ""})).relative_to("/")
    site.mkdir(parents=True, exist_ok=True)
    # the dependencies of this environment, but not its editable install: nested .pth files are not followed
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--no-compile", "--force-reinstall", str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    where, version = run(str(python), "-c", "import hapo_lit; print(hapo_lit.__file__, hapo_lit.__version__)").split()
    assert str(tmp_path) in where
    assert version == hapo_lit.__version__
    command = str(tmp_path / "env/bin/hapo")
    described = run(command, "train", "--help", "experiment=hapo_paper")
    assert "hapo_paper" in described  # among the groups
    assert "threshold: 0.8" in described  # of the composed configuration


def test_the_version_is_that_of_the_citation_and_of_the_last_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == hapo_lit.__version__
    assert citation["license"] == "Apache-2.0"
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == hapo_lit.__version__


def test_pins_that_must_hold_together():
    version = importlib.metadata.version
    assert version("hydra-core").startswith("1.3.")
    assert version("antlr4-python3-runtime").startswith("4.9.")
    assert version("latex2sympy2_extended").startswith("1.11.")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version("latex2sympy2")
