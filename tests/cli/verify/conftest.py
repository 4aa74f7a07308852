"""``hapo verify`` in this process, in an empty folder."""

import pytest

from hapo_lit import cli


@pytest.fixture
def hapo(tmp_path, monkeypatch, capsys):
    """The command in an empty folder; returns its output, its errors and its exit status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("HAPO_TRACEBACK", "0")

    def run(*arguments):
        capsys.readouterr()
        status = 0
        try:
            cli.main(["verify", *arguments])
        except SystemExit as stopped:
            status = stopped.code
        out, err = capsys.readouterr()
        return out, err.strip(), status

    return run
