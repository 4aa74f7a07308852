"""A key changes with everything that a result was made from, and with nothing else."""

from __future__ import annotations

import importlib
import re
import sys
import threading
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from hapo_lit.storage import cache_key as module
from hapo_lit.storage.cache_key import cache_key, identity


@dataclass
class Inner:
    value: object


class Outer:
    def __init__(self, inner, names=()):
        self._inner, self.names = inner, names


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Stating:
    """Says itself what its settings are."""

    def __init__(self, setting):
        self.setting, self.calls, self.lock = setting, 0, threading.Lock()

    def fingerprint(self):
        return self.setting


def key(part):
    found = cache_key({"part": part})
    assert not found.unknown
    return found.key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Outer(Inner(1)), Outer(Inner(2))),
        (Outer(Inner(1)), Outer(Slotted(1))),
        (Outer(Inner(1), ["a"]), Outer(Inner(1), ["b"])),
        (Inner({"a": Inner(1)}), Inner({"a": Inner(2)})),
        (Inner(1), Inner(1.0)),
        (Inner(re.compile("a")), Inner(re.compile("a", re.IGNORECASE))),
        (Inner(np.zeros(3)), Inner(np.ones(3))),
        (Slotted(1), Slotted(2)),
        (Stating("a"), Stating("b")),
        (partial(Inner, 1), partial(Inner, 2)),
        (Inner(Outer), Inner(Slotted)),
        ({"_target_": "fractions.Fraction", "numerator": 1}, {"_target_": "statistics.NormalDist", "numerator": 1}),
    ],
)
def test_classes_and_settings_at_any_depth_count(one, other):
    assert key(one) != key(other)


def test_equal_parts_have_one_key_and_a_part_may_say_what_its_settings_are():
    assert key(Outer(Inner({"b", "a"}), ["x"])) == key(Outer(Inner({"a", "b"}), ["x"]))
    first, second = Stating("a"), Stating("a")
    second.calls = 7
    assert key(first) == key(second)
    ring = Inner(None)
    ring.value = ring
    assert key(ring) == key(ring)


@pytest.mark.parametrize("value", [threading.Lock(), iter([]), np.random.default_rng(0).bit_generator, object])
def test_what_has_no_source_is_named(value):
    found = cache_key({"part": Outer(Inner(value) if value is not object else np.array([object()]))})
    assert found.unknown.startswith("part._inner")


def modules(folder, rules="LIMIT = 1", helper=""):
    (folder / "own_rules.py").write_text(f"{helper}\n{rules}\n")
    (folder / "own_part.py").write_text("class Part:\n    def __call__(self):\n        from own_rules import LIMIT\n")
    importlib.invalidate_caches()
    for name in ("own_part", "own_rules"):
        sys.modules.pop(name, None)
    return importlib.import_module("own_part").Part()


def test_the_source_of_a_class_and_of_what_it_imports_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    base = modules(tmp_path)
    before, whose = key(base), identity({"part": base})
    assert key(modules(tmp_path)) == before
    assert key(modules(tmp_path, rules="LIMIT = 2")) != before
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("from . import inside")
    (tmp_path / "deep" / "inside.py").write_text("A = 1")
    further = key(modules(tmp_path, helper="import deep"))
    (tmp_path / "deep" / "inside.py").write_text("A = 2")
    assert key(modules(tmp_path, helper="import deep")) != further
    assert identity({"part": modules(tmp_path, rules="LIMIT = 2")}) != whose
    sys.modules.pop("own_part")
    sys.modules.pop("own_rules", None)


def test_a_file_that_a_setting_names_counts(tmp_path):
    (tmp_path / "words.txt").write_text("a")
    before = key(Inner(str(tmp_path / "words.txt")))
    (tmp_path / "words.txt").write_text("bc")
    assert key(Inner(str(tmp_path / "words.txt"))) != before
    assert key(Inner(tmp_path / "words.txt")) != key(Inner(tmp_path / "gone.txt"))


def test_the_files_of_a_folder_that_a_setting_names_count(tmp_path):
    (tmp_path / "weights.bin").write_text("a")  # as of a reward model
    before, text = key(Inner(str(tmp_path))), key(Inner("/"))
    (tmp_path / "weights.bin").write_text("bc")
    assert key(Inner(str(tmp_path))) != before
    assert key(Inner("/")) == text


def test_a_source_in_another_encoding_and_one_that_cannot_be_read_do_not_stop_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "unfinished.py").write_text("value = (")
    part = (
        "# coding: latin-1\n# \xe9\ntry:\n    import unfinished\nexcept SyntaxError:\n    pass\nclass Part:\n    pass\n"
    )
    (tmp_path / "other_part.py").write_bytes(part.encode("latin-1"))
    assert key(importlib.import_module("other_part").Part())
    sys.modules.pop("other_part")


def test_versions_count_for_a_key_and_not_for_an_identity(monkeypatch):
    keys, same = {cache_key({"part": Inner(1)}, ("torch",)).key}, {identity({"part": Inner(1)})}
    keys.add(cache_key({"part": Inner(1)}, ("torch", "sympy")).key)
    monkeypatch.setattr(module, "_version", lambda name: f"another {name}")
    keys.add(cache_key({"part": Inner(1)}, ("torch",)).key)
    monkeypatch.setattr(module, "__version__", "9.9")
    keys.add(cache_key({"part": Inner(1)}, ("torch",)).key)
    same.add(identity({"part": Inner(1)}))
    assert len(keys) == 4
    assert len(same) == 1
