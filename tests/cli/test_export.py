"""Which checkpoint ``hapo export`` takes."""

from __future__ import annotations

from hapo_lit.cli.export import checkpoint_of
from hapo_lit.training.checkpoint_folder import CheckpointFolder
from hapo_lit.training.run_state import FORMAT


def test_a_damaged_checkpoint_is_named_where_an_older_one_is_taken(tmp_path, capsys):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    (tmp_path / "config.yaml").touch()
    older, newer = (folder.write(step, {"format": FORMAT}) for step in (2, 4))
    newer.write_bytes(b"")
    assert checkpoint_of(tmp_path, "newest") == older
    assert f"warning: {newer} is damaged and was passed over" in capsys.readouterr().err
