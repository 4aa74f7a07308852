"""A stable hash of text: the same in every process, on every machine, in every version of Python."""

from __future__ import annotations

import hashlib


def stable_hash(text: str | bytes, size: int = 8) -> bytes:
    """BLAKE2b (RFC 7693) of a text, ``size`` bytes of it."""
    return hashlib.blake2b(text.encode() if isinstance(text, str) else text, digest_size=size).digest()


def stable_int(text: str | bytes, size: int = 8) -> int:
    """:func:`stable_hash` as a number of ``8 * size`` bits, most significant byte first."""
    return int.from_bytes(stable_hash(text, size), "big")
