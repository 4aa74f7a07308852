"""``hapo rerun RUN``: the command that repeats a run, and what is different here."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hapo_lit.cli.bootstrap import one_line_errors
from hapo_lit.cli.run_record import environment, read_starts, revision, versions
from hapo_lit.errors import SetupError, one_line


def main(arguments: list[str]) -> None:
    """Entry point of ``hapo rerun``; ends with status 2 and one line if there is no record."""
    parser = argparse.ArgumentParser(
        prog="hapo rerun",
        description="Print the command that repeats a run in a folder of its own, as one line for a shell. What is "
        "different here (code, versions, environment) is said on standard error.",
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    chosen = parser.parse_args(arguments)
    with one_line_errors(SetupError):
        starts = read_starts(chosen.run)
        line = command_line(starts)
    for note in notes(starts):
        print(f"note: {note}", file=sys.stderr)
    print(line)


def command_line(starts: Sequence[Mapping[str, Any]]) -> str:
    """One line for a shell: the settings of the last start, from where the first one began.

    A run that went on by ``resume=auto`` is repeated in one piece.
    """
    first, last = starts[0], starts[-1]
    if not last["command"]:
        raise SetupError("the run was started by a program of its own, not by a hapo command: start that again")
    settings = [setting for setting in last["command"] if not _is_of(setting, "resume", "allow_changes")]
    settings += [
        setting for setting in first["command"] if _is_of(setting, "resume") and setting.split("=", 1)[1] != "auto"
    ]
    words = ["hapo", *settings]
    line = f"cd {shlex.quote(last['folder'])} && {shlex.join(words)}"
    if not line.isprintable():
        raise SetupError(f"the command holds characters that do not go into one line: {one_line(line)}")
    return line


def notes(starts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What is different here from the run's last start, and from one of its starts to the next."""
    last = starts[-1]
    if any(_is_of(setting, "allow_changes") for start in starts[1:] for setting in start["command"]):
        yield "the run went on with other settings (allow_changes): the command repeats the last ones from the start"
    if (then := _code(last.get("revision", {}))) != (now := _code(revision())):
        yield f"hapo_lit was {then}, here it is {now}"
    if last.get("revision", {}).get("dirty"):
        yield "its code had changes that were not committed"
    for what, here in (("versions", versions()), ("environment", environment())):
        there = last.get(what, {})
        for name in sorted(there.keys() | here.keys()):
            if there.get(name) != here.get(name):
                yield one_line(f"{name} was {_shown(there.get(name))}, here it is {_shown(here.get(name))}")


def _is_of(setting: str, *keys: str) -> bool:
    return setting.split("=", 1)[0].lstrip("+") in keys


def _code(revision: Mapping[str, Any]) -> str:
    return one_line(f"{revision.get('version')} {revision.get('commit', '')}".strip())


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)
