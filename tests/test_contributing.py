"""The examples of CONTRIBUTING are written into a copy of the project, and its command is run there."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.forked_runs import forked_runs

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
COMMAND = """
import sys

for name in [name for name in sys.modules if name.partition(".")[0] == "hapo_lit"]:
    del sys.modules[name]  # the copy beside this file is imported in its place
from hapo_lit.cli import main

assert main.__code__.co_filename.startswith(sys.path[0])
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_new_part_is_one_class_and_one_file(tmp_path, policy, tokenizer):
    for folder in ("hapo_lit", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 4
    assert sum(len(code.splitlines()) for _, code in blocks) < 30
    for path, code in blocks:
        with (tmp_path / path).open("a") as file:
            file.write(f"\n\n{code}")
    for path, target in re.findall(r"`(conf/\S+)`\s\(`(_target_: \S+)`\)", TEXT):
        (tmp_path / path).write_text(f"{target}\n")
    command = re.search(r"this runs: `hapo (train [^`]+)`", TEXT)[1].split()

    policy.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    small = ["model.path=base", "steps=3", "eval_every=3", "data.source.train_size=40", "data.source.heldout_size=4"]
    small += ["data.source.levels.0.digits=1", "data.source.levels.1.digits=2", "max_response_tokens=24"]
    (tmp_path / "command.py").write_text(COMMAND)
    done = forked_runs().run(tmp_path, "command.py", *command, *small, "hydra.run.dir=run", "teacher_errors=none")
    assert done.returncode == 0, done.stderr
    metrics = pd.read_csv(tmp_path / "run" / "metrics.csv").groupby("step").first()
    assert 0.2 < metrics["gate/open_rate"].iloc[1:].mean() < 0.8  # half of the prompts
    assert (metrics["teacher/use"].iloc[1:] == metrics["gate/open_rate"].iloc[1:]).all()
