"""Folders that one command makes and others read are checked by what was written down of them."""

from __future__ import annotations

import pytest

from hapo_lit.cli import prepare
from hapo_lit.policy.pretrained import prepared
from hapo_lit.storage.checksums import LIST, damage, list_files


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "a").write_bytes(b"12345")
    (made / "b").write_bytes(b"")
    return made


def test_a_file_that_changed_shrank_or_is_gone_is_named(folder):
    assert damage(folder) == ""  # there is no list
    list_files(folder)
    assert damage(folder) == damage(folder / "nowhere") == ""
    for content in (b"12346", b"1234", b"123456"):
        (folder / "a").write_bytes(content)
        assert damage(folder) == damage(folder, only="a") == "checksum of a"
        assert damage(folder, only="b") == ""
    (folder / "a").unlink()
    assert "No such file" in damage(folder)
    for content in ("[", "[1]", '{"b": 1}'):
        (folder / LIST).write_text(content)
        assert damage(folder)


def test_what_prepare_made_is_checked_where_it_is_used_and_made_again(folder, capsys):
    target, recipe = folder.parent / "prepared", {"seed": 1}

    def make(out):
        (out / "train.jsonl").write_text("{}")
        return "one"

    prepare._make_once(target, recipe, "it", make)
    (target / "train.jsonl").write_text("[]")
    for path in (target, target / "train.jsonl"):
        with pytest.raises(ValueError, match=r"is damaged \(checksum of train.jsonl\): run `hapo prepare x` once more"):
            prepared(str(path), "hapo prepare x")
    capsys.readouterr()
    prepare._make_once(target, recipe, "it", make)
    assert "is damaged (checksum of train.jsonl) and is made again" in capsys.readouterr().out
    assert (target / "train.jsonl").read_text() == "{}"
    prepare._make_once(target, recipe, "it", make)
    assert "there already" in capsys.readouterr().out
