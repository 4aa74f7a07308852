"""No file that the program reads can make it run something, whoever wrote the file."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet
from support.builders import write_base
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from hapo_lit.analysis.runs import load_run
from hapo_lit.cli import export
from hapo_lit.cli.run_config import names_in_conf, read_run_config
from hapo_lit.data.problems import Problem
from hapo_lit.data.reader import LocalFiles, Position
from hapo_lit.data.teachers import CachedTeachers, TrustedTeachers
from hapo_lit.data.templates import ChatTemplate
from hapo_lit.errors import ResumeError, SetupError
from hapo_lit.policy.loading import load_policy, load_tokenizer, meta_model, policy_like
from hapo_lit.storage.checksums import checksum_of
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.checkpoint_format import META, load, write_manifest
from hapo_lit.training.run_state import FORMAT
from hapo_lit.training.shards import load_whole, tensors_in


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """Not there at the end, and made by a payload that is unpickled."""
    path = tmp_path / "MARK"
    pickle.loads(pickle.dumps(Payload(path)))
    path.rmdir()
    yield path
    assert not path.exists()


HELD = "it holds (posix|nt).mkdir, which is no part of a run state and could run code"


@pytest.mark.parametrize("form", [FORMAT, FORMAT + 1])
def test_a_state_in_one_file(tmp_path, mark, form, capsys):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    torch.save({"format": form, "world": Payload(mark)}, folder.write(2, {"format": FORMAT}).with_name("step-4.ckpt"))
    with pytest.raises(ResumeError, match=HELD):
        load(folder.path(4))
    newest, (line,) = folder.newest()
    assert newest == folder.path(2)
    assert "mkdir" in line
    (tmp_path / "config.yaml").touch()
    assert export.checkpoint_of(tmp_path, "newest") == folder.path(2)


def sharded(folder, meta, metadata, shard=b""):
    folder.mkdir(parents=True)
    torch.save(meta, folder / META)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    (folder / "__0_0.distcp").write_bytes(shard)
    write_manifest(folder, {file.name: checksum_of(file) for file in folder.iterdir()})
    return folder


def test_a_state_in_shards(tmp_path, mark):
    state = {"format": FORMAT, "optimizer": {}}
    planted = io.BytesIO()
    torch.save(Payload(mark), planted)
    place = _StorageInfo("__0_0.distcp", 0, len(planted.getvalue()))
    bytes_in_shard = Metadata({"module.a": BytesStorageMetadata()}, storage_data={MetadataIndex("module.a"): place})
    elsewhere = Metadata({}, storage_data={MetadataIndex("a"): _StorageInfo("../../__0_0.distcp", 0, 1)})
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    sharded(checkpoints.path(1), state, Metadata({}))
    for step, (meta, metadata, said) in enumerate(
        [
            ({**state, "world": Payload(mark)}, Metadata({}), HELD),
            (state, Payload(mark), HELD),
            (state, Metadata({}, planner_data=Payload(mark)), HELD),
            (state, bytes_in_shard, "more than the places of tensors|BytesStorageMetadata"),
            (state, elsewhere, "more than the places of tensors"),
        ],
        start=2,
    ):
        path = sharded(checkpoints.path(step), meta, metadata, planted.getvalue())
        for read in (load, load_whole):
            with pytest.raises(ResumeError, match=said):
                read(path)
        if meta is state:
            with pytest.raises(ResumeError, match=said):
                tensors_in(path)
    assert checkpoints.newest()[0] == checkpoints.path(1)


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_hugging_face_folder(tmp_path, mark, known, monkeypatch):
    """Nobody is asked at the terminal either."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    write_base(tmp_path)
    names = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.T", "own.T"]}
    (tmp_path / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass C: ...\nclass M: ...\nclass T: ...\n")
    for file, kind in (("config.json", "model_type"), ("tokenizer_config.json", "tokenizer_class")):
        settings = json.loads((tmp_path / file).read_text()) | {"auto_map": names, "attn_implementation": "own/kernel"}
        (tmp_path / file).write_text(json.dumps(settings if known else settings | {kind: "own"}))
    for read in (load_policy, load_tokenizer, meta_model, policy_like):
        if known:
            read(str(tmp_path))
        else:
            with pytest.raises(ValueError, match="brings code of its own, which is never run"):
                read(str(tmp_path))


def test_pickled_weights_in_a_hugging_face_folder(tmp_path, mark):
    write_base(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload(mark)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="weights that could run code: save them as safetensors"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}",
        "{% set x = messages.append(1) %}",
    ],
)
def test_a_chat_template(tokenizer, tmp_path, mark, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, chat_template=text)
    with pytest.raises(ValueError, match="chat template cannot write a prompt"):
        ChatTemplate().prompt(tokenizer, "1+1")


YAML = [
    "gate: !!python/object/apply:os.mkdir [{mark}]",
    "gate: {{_target_: os.mkdir, path: {mark}}}",
    "gate: {{_target_: hapo_lit.cli.run_config.Path.mkdir, self: {mark}}}",
    "gate: {{_target_: hapo_lit.storage.atomic.remove, path: {mark}}}",
    "data: [{{_target_: hydra.utils.get_method, path: os.mkdir}}]",
    "data: {{_target_: hydra.utils.get_method, _args_: [os.mkdir]}}",
    "name: os.mkdir\ngate: {{_target_: '${{name}}'}}",
]


@pytest.mark.parametrize("text", YAML)
def test_the_config_of_a_run(tmp_path, mark, text, capsys):
    run = tmp_path / "run"
    CheckpointFolder(run / "checkpoints").write(1, {"format": FORMAT, "module": {}})
    (run / "config.yaml").write_text(text.format(mark=mark))
    with pytest.raises(SystemExit) as stopped:
        export.main([str(run), str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "config.yaml" in capsys.readouterr().err
    assert load_run(run).name == "run"  # a report reads it as text


def test_the_config_of_a_run_may_name_ours_and_what_the_user_trusts(tmp_path):
    names = sorted({*names_in_conf(), "hapo_lit.gates.CredibleBound", "hapo_lit.losses.k2"})
    assert {
        "torch.optim.AdamW",
        "lightning.pytorch.loggers.TensorBoardLogger",
        "hapo_lit.gates.BetaGate",
        "hapo_lit.losses.token_ratio",
    } < set(names)
    method = {"_target_": "hydra.utils.get_method", "path": "hapo_lit.losses.sequence_product"}
    config = {"parts": [{"_target_": name} for name in names if name not in method.values()], "ratio": method}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    assert read_run_config(tmp_path) == config
    (tmp_path / "config.yaml").write_text(json.dumps({"gate": {"_target_": "mine.gates.Streak"}}))
    with pytest.raises(SetupError, match=r"names mine\.gates\.Streak.*trust it \(--trust mine\.gates\)"):
        read_run_config(tmp_path, ["min", "mine.gates.Streak2"])
    for trusted in ("mine", "mine.gates", "mine.gates.Streak"):
        assert read_run_config(tmp_path, [trusted])


def test_rows_of_arrow_and_parquet(tmp_path, mark):
    """Arrow once unpickled the types of columns."""
    planted = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Payload(mark)),
    }
    field = pyarrow.field("problem", pyarrow.string(), metadata=planted)
    features = {"info": {"features": {"problem": {"_type": "os.mkdir", "path": str(mark)}}}}
    for name, schema in {
        "type": pyarrow.schema([field]),
        "features": pyarrow.schema({"problem": "string"}, metadata={"huggingface": json.dumps(features)}),
    }.items():
        table = pyarrow.Table.from_arrays([pyarrow.array(["1+1"])], schema=schema)
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        with pyarrow.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, schema) as out:
            out.write_table(table)
        for suffix in ("parquet", "arrow"):
            rows = LocalFiles(str(tmp_path / f"{name}.{suffix}")).rows(Position())
            if name == "features":
                with pytest.raises(ValueError, match=r"os\.mkdir"):
                    next(rows)
            else:
                assert next(rows)[0]["problem"] == "1+1"


def test_verdicts(tmp_path, mark):
    problem = Problem("a", r"\boxed{1}", "1")
    CachedTeachers(TrustedTeachers(), str(tmp_path / "teachers"))([problem])
    (file,) = (tmp_path / "teachers").rglob("*.jsonl")
    file.write_bytes(pickle.dumps(Payload(mark)) + b"\n" + f"[__import__('os').mkdir({str(mark)!r}), 1.0]\n".encode())
    verdicts = CachedTeachers(TrustedTeachers(), str(tmp_path / "teachers"))([problem])
    assert verdicts.rewards.tolist() == [1.0]


def test_every_reader_of_pickles_is_named_here():
    """A new one belongs among these tests."""
    found = set()
    for path in Path(export.__file__).parent.parent.rglob("*.py"):
        text = path.read_text()
        found |= {path.name for word in ("torch.load(", "Unpickler(", "pickle.load", "yaml.load(") if word in text}
        assert "weights_only=False" not in text
        assert "trust_remote_code=True" not in text
    # `verify/workers/worker.py` reads what its own parent sent
    assert found == {"checkpoint_format.py", "named_globals.py", "runs.py", "worker.py"}
