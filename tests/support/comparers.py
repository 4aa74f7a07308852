"""Comparers that do what an answer asks of them, as bad as it may be; the workers of a pool import them."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from hashlib import pbkdf2_hmac

from hapo_lit.verify.workers.messages import Code


def spin() -> None:
    while True:
        pass


def recurse() -> None:
    recurse()


def raise_it(error: BaseException) -> None:
    raise error


def spin_in_a_thread() -> None:
    """In C code that has let go of the interpreter's lock; the main thread sleeps."""
    threading.Thread(target=pbkdf2_hmac, args=["sha256", b"", b"", 2**30], daemon=True).start()
    time.sleep(3600)


def spin_without_a_timer() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    spin()


def work(seconds: float = 0.2) -> None:
    """Use so much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def linger() -> None:
    """Leaves work to a thread, more than the limit of 0.3 s."""
    threading.Thread(target=work, args=[0.4], daemon=True).start()


ACTS = {
    "sleep": lambda: time.sleep(3600),
    "spin": spin,
    "spin in C": lambda: 9 ** (9**9),  # one operation of hours, with the interpreter's lock held
    "spin in a thread": spin_in_a_thread,
    "spin without a timer": spin_without_a_timer,
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(0),
    "segfault": lambda: ctypes.string_at(0),
    "4 GiB": lambda: bytearray(2**32),
    "value error": lambda: raise_it(ValueError("no")),
    "recursion": recurse,
    "system exit": lambda: raise_it(SystemExit(0)),
    "bad code": lambda: 77,
    "bad gold": lambda: Code.BAD_GOLD,
    "print": lambda: print("x" * 100_000, file=sys.stderr, flush=True),
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "linger": linger,
    "work": work,
}


@dataclass(frozen=True)
class Acting:
    """Equal strings are EQUAL, once the act that the answer names is over; the gold may name a file to write to."""

    preload: tuple[str, ...] = ()

    def prepare(self) -> None:
        pass

    def __call__(self, gold: str, answer: str) -> Code:
        if gold.startswith("/"):
            with open(gold, "w") as file:
                file.write(answer)
        if answer.startswith("sleep "):
            time.sleep(float(answer.split()[1]))
        code = ACTS.get(answer, lambda: None)()
        return Code(gold == answer) if code is None else code


@dataclass(frozen=True)
class Sullen(Acting):
    """Does not get ready."""

    how: str = "raise"

    def prepare(self) -> None:
        if self.how == "raise":
            raise LookupError("no parser today")
        ACTS[self.how]()


@dataclass(frozen=True)
class Mortal(Acting):
    """Leaves 0.3 s after it got ready, whatever it does then."""

    def prepare(self) -> None:
        threading.Timer(0.3, os._exit, [0]).start()


class Speaking(Acting):
    """Says EQUAL if the gold, an expression of its own state, is the answer."""

    def __call__(self, gold: str, answer: str) -> Code:
        state = {
            "pid": os.getpid(),
            "ground types": sys.modules["sympy"].external.gmpy.GROUND_TYPES if "sympy" in sys.modules else "",
            "address space": resource.getrlimit(resource.RLIMIT_AS)[0] // 2**20,
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "file size": resource.getrlimit(resource.RLIMIT_FSIZE),
            "files": len(os.listdir("/proc/self/fd")),
            "interrupt": signal.getsignal(signal.SIGINT),
            "torch": "torch" in sys.modules,
            **os.environ,
        }
        return Code(str(state[gold]) == answer)


class Limited(Speaking):
    """On a system that allows no more than 900 MiB of address space."""

    def prepare(self) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (900 * 2**20, 900 * 2**20))


@dataclass(frozen=True)
class Loud(Acting):
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple:
        return raise_it, (LookupError("no such comparer"),)
