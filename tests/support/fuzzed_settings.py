"""Settings that somebody might mistype, made from the composed configuration, and what an answer to them must be."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from support.configs import CONF, composed

SHORT = [
    *("experiment=smoke", "prompts_per_step=4", "data.source.heldout_size=8", "data.source.train_size=64"),
    *("steps=4", "eval_every=2", "save_every=2", "max_response_tokens=16"),
]
"""A run of a second."""
NOT_FUZZED = ("experiment", "debug", "sweep", "hydra", "fabric", "trainer", "data", "model")
"""Groups whose options need what a test has not got, or are no key."""
ANYTHING = ["abc", "null", "true", "-1", "0", "1.5", "nan", "inf", "[]", "[1,2]", "{a:1}", "''", "no"]
WRONG: dict[type, list[str]] = {
    int: ["-1", "0", "1.5", "abc", "null", "true", "nan", "inf", "99999999999999999999", "1000000", "[1]", "'3'", "no"],
    float: ["-1", "-0.1", "0", "abc", "null", "nan", "inf", "-inf", "2", "1e300", "true", "[]", "off", "'0.5'"],
    bool: ["no", "off", "'false'", "1", "0", "null", "abc", "[true]", "yes"],
    str: ["5", "null", "abc", "[]", "''", "true", "1.5", "{a:1}", "nan"],
    type(None): ["abc", "-1", "0", "nan", "1.5", "true", "[]", "{}", "off", "inf"],
    list: ["abc", "5", "[]", "null", "[abc]", "{}", "[-1]", "[nan,nan]", "true", "[null]"],
    dict: ["null", "abc", "5", "[]", "true", "nan", "[1]"],
}
"""What is set at a key of this kind."""


def drawn_case(seed: int, number: int) -> list[str]:
    """A command line, a function of both: one setting, after the choice of a group, or several such choices."""
    drawn = random.Random(f"{seed} {number}")
    makers = [_wrong_value] * 12 + [_misspelt] * 3 + [_wrong_option] * 2 + [_parts_together] * 3
    return drawn.choice(makers)(drawn)


def key_of(case: list[str]) -> str:
    """The last key that a command line sets."""
    return case[-1].split("=")[0].lstrip("+~")


def every_wrong_value() -> Iterator[list[str]]:
    """Each wrong value at each key of the smoke experiment and of each option of a group."""
    seen: set[str] = set()
    for choice in ([], *([choice] for choice in _choices())):
        for key, kind in _leaves(*choice).items():
            if key not in seen:
                seen.add(key)
                yield from ([*choice, f"{key}={value}"] for value in WRONG[kind])


def _wrong_value(drawn: random.Random) -> list[str]:
    choice = [drawn.choice(_choices())] if drawn.random() < 0.4 else []
    leaves = _leaves(*choice)
    own = [key for key in leaves if choice and key.startswith(choice[0].split("=")[0] + ".")]
    key = drawn.choice(own or list(leaves))
    return [*choice, f"{key}={drawn.choice(WRONG[leaves[key]])}"]


def _misspelt(drawn: random.Random) -> list[str]:
    key = drawn.choice(list(_leaves())).split(".")
    level = drawn.randrange(len(key))
    word, at = key[level], drawn.randrange(len(key[level]))
    key[level] = drawn.choice([word[:at] + word[at + 1 :], word[:at] + "q" + word[at:], word + "s", word.upper()])
    return [f"{drawn.choice(['', '', '+', '++', '~'])}{'.'.join(key)}={drawn.choice(['1', 'abc', '0.5'])}"]


def _wrong_option(drawn: random.Random) -> list[str]:
    group, option = drawn.choice(_choices()).split("=")
    other = drawn.choice(_choices()).split("=")[1]
    return [f"{group}={drawn.choice([option[:-1], other, 'null', '5', f'[{option}]', f'{option}.yaml', 'abc', '[]'])}"]


def _parts_together(drawn: random.Random) -> list[str]:
    chosen = {choice.split("=")[0]: choice for choice in (drawn.choice(_choices()) for _ in range(3))}
    return list(chosen.values())


@cache
def _choices() -> list[str]:
    """Every option of every group that is fuzzed."""
    options = (path for path in sorted(CONF.glob("*/*.yaml")) if path.parent.name not in NOT_FUZZED)
    return [f"{path.parent.name}={path.stem}" for path in options]


@cache
def _leaves(*choice: str) -> dict[str, type]:
    """Every key of the smoke experiment, with the kind of what it holds."""
    config = composed("train", *SHORT, *choice)
    return dict(_walk(config, ""))


def _walk(node: Any, where: str) -> Iterator[tuple[str, type]]:
    if isinstance(node, DictConfig):
        for name in node:
            key = f"{where}.{name}" if where else str(name)
            if name == "_target_" or OmegaConf.is_missing(node, name):
                continue
            raw = OmegaConf.to_container(node, resolve=False)[name]  # type: ignore[index, call-overload]
            try:
                value = node[name]
            except Exception:  # an interpolation of Hydra's own
                yield key, str
                continue
            if isinstance(value, DictConfig | ListConfig) and not isinstance(raw, str):
                yield key, dict if isinstance(value, DictConfig) else list
                yield from _walk(value, key)
            elif not isinstance(value, DictConfig | ListConfig):
                yield key, type(value)
    elif isinstance(node, ListConfig):
        for index, item in enumerate(node):
            yield from _walk(item, f"{where}.{index}")


def wrong_answer(case: list[str], returncode: int, stderr: str, folder: Path) -> str | None:
    """What is wrong with the answer to a command line; None = it is one line that names the key, or a whole run."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    if "Traceback" in stderr:
        return f"a traceback: {lines[-1][:300]}"
    if returncode == 0:
        runs = list(folder.rglob("summary.json"))
        if not runs:
            return "no summary"
        return None if list(runs[0].parent.glob("checkpoints/step-*")) else "no checkpoint"
    if returncode != 2:
        return f"status {returncode}: {lines[-1:]}"
    said = [line for line in lines if line.startswith("hapo: error: ")]
    if len(said) != 1 or lines[-1] != said[0]:
        return f"{len(said)} lines: {lines}"
    names = {word for setting in case for word in re.split(r"[.=/]", setting.lstrip("+~").split("=")[0])[-1:]}
    if len(case) > 1:
        names |= {setting.split("=")[0] for setting in case}
    if not any(re.search(rf"\b{re.escape(name)}\b", said[0]) for name in names):
        return f"names no key: {said[0]}"
    return None
