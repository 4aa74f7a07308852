"""The token that a vLLM server asks for: one for each user, in a file that nobody else can read, or in the environment.

It is no setting: those are in ``config.yaml`` of every run, and on command lines that all users of a machine see.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from hapo_lit.errors import EngineError
from hapo_lit.storage.atomic import appearing, make_private

VARIABLE = "HAPO_SERVER_TOKEN"
"""In the environment of server and trainer, where they share no home."""


def token_file() -> Path:
    """Where ``hapo serve`` writes the token, and runs of the same user read it."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "hapo_lit", "server_token")


def known_token() -> str:
    """The token of this user; empty = there is none.

    Raises:
        EngineError: others may read the file, or it is somebody else's.
    """
    if token := os.environ.get(VARIABLE):
        return token
    file = token_file()
    try:
        with file.open() as opened:
            facts, token = os.fstat(opened.fileno()), opened.read().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise EngineError(f"{file}, the token of rollout servers, cannot be read ({error}): set {VARIABLE}") from error
    if facts.st_mode & 0o077 or facts.st_uid != os.getuid():
        raise EngineError(
            f"{file}, the token of rollout servers, is not yours alone: delete it, and start servers anew"
        )
    return token


def made_token() -> tuple[str, str]:
    """The token of this user, which is made if there is none; and where a run finds it."""
    if token := known_token():
        return token, VARIABLE if os.environ.get(VARIABLE) else str(token_file())
    file, token = token_file(), secrets.token_hex(32)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with appearing(file, shared=True) as draft:
        make_private(draft).write_text(token + "\n")
    return known_token(), str(file)  # that of another server, if one has just made it, too
