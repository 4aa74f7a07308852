"""What a run writes down of its start, and the command that repeats it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess

import pytest

from hapo_lit import __version__
from hapo_lit.cli.rerun import command_line, main, notes
from hapo_lit.cli.run_record import environment, read_starts, record_start, revision, versions


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_the_revision_is_the_commit_and_whether_files_differ_from_it(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    assert revision(package) == {"version": __version__}  # no git tree
    git(tmp_path, "init", "--quiet")
    assert revision(package) == {"version": __version__}  # a tree that has not got the package, as of an environment
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    clean = revision(package)
    assert (len(clean["commit"]), clean["dirty"]) == (40, False)
    (package / "__init__.py").write_text("changed")
    assert revision(package) == clean | {"dirty": True}


def test_the_version_stands_alone_where_there_is_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert revision() == {"version": __version__}


def test_no_secret_is_written_down(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    kept = {"HAPO_CACHE": "/c", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "INFO"}
    secrets = ["HF_TOKEN", "HAPO_SERVER_TOKEN", "VLLM_API_KEY", "HF_SECRET", "HAPO_DB_PASSWORD", "HF_hub_token"]
    for name, value in [*kept.items(), *((name, "hush") for name in secrets), ("HOME", "/h"), ("AWS_PROFILE", "p")]:
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_ENDPOINT", "https://me:hush@mirror.org/hub")
    assert environment() == kept | {"HF_ENDPOINT": "https://mirror.org/hub"}


def test_each_start_is_appended_and_a_damaged_record_is_begun_anew(tmp_path):
    for seed in range(2):
        record_start(tmp_path, ["train", f"seed={seed}"], {}, {"fingerprint": "f"}, step=seed)
    starts = read_starts(tmp_path)
    assert [start["command"][1] for start in starts] == ["seed=0", "seed=1"]
    assert starts[1]["step"] == 1
    assert starts[1]["data"] == {"fingerprint": "f"}
    assert starts[1]["versions"]["torch"]
    (tmp_path / "run.json").write_text('{"starts": [{"folder": 3}]}')
    record_start(tmp_path, ["fabric"], {}, {})
    assert [start["command"] for start in read_starts(tmp_path)] == [["fabric"]]


def start(*command, **facts):
    return {"folder": "/my work", "command": list(command), "revision": revision(), "versions": versions(), **facts}


def words(*starts):
    return shlex.split(command_line(starts))


def test_the_command_can_be_given_to_a_shell():
    setting = "model.tokenizer.eos_token='<a b>$HOME'"
    assert words(start("train", setting, "gate=never")) == [
        "cd",
        "/my work",
        "&&",
        "hapo",
        "train",
        setting,
        "gate=never",
    ]


def test_a_run_that_was_resumed_is_repeated_in_one_piece():
    first = start("train", "seed=1", "steps=4")
    last = start("fabric", "seed=1", "steps=8", "resume=auto", "+allow_changes=true")
    assert words(first, last)[3:] == ["hapo", "fabric", "seed=1", "steps=8"]
    assert any("other settings" in note for note in notes([first, last]))
    first["command"].append("resume=/other/checkpoints/last.ckpt")  # where the run itself began
    assert words(first, last)[3:] == ["hapo", "fabric", "seed=1", "steps=8", "resume=/other/checkpoints/last.ckpt"]


def test_what_is_different_here_is_named(monkeypatch):
    before = start("train", environment=environment())
    before["revision"] = {"version": "0.0.1", "commit": "abc", "dirty": True}
    before["versions"] = versions() | {"torch": "1.0"}
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    told = list(notes([before]))
    assert told[0].startswith("hapo_lit was 0.0.1 abc, here it is ")
    assert "its code had changes that were not committed" in told
    assert f"torch was 1.0, here it is {versions()['torch']}" in told
    assert told[-1] == "NCCL_DEBUG was not set, here it is WARN"
    monkeypatch.delenv("NCCL_DEBUG")
    assert not list(notes([start("train", environment=environment()) | {"revision": revision() | {"dirty": False}}]))


def test_what_is_no_record_is_refused_in_one_line(tmp_path, capsys):
    def says():
        with pytest.raises(SystemExit) as left:
            main([str(tmp_path)])
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "run.json does not exist" in says()
    for content in ("{", "[]", '{"starts": []}', '{"starts": [{"folder": "/", "command": [1]}]}', "[" * 100_000):
        (tmp_path / "run.json").write_text(content)
        assert "run.json" in says()
    for command, message in ([], "a program of its own"), (["train", "a=\x1b[2J"], "characters that do not go into"):
        (tmp_path / "run.json").write_text(json.dumps({"starts": [start(*command)]}))
        assert message in says()
