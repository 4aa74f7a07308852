"""What kind of answer a text is: a number or formula, a list, a tuple, an interval, a relation, a matrix.

:func:`parse` takes a normalised answer (:func:`hapo_lit.verify.latex.normalise`) apart at its top-level commas,
brackets and relations.  What cannot be taken apart is a :class:`Leaf`, and no leaf is evaluated here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from hapo_lit.verify import numbers, quantities
from hapo_lit.verify.latex import ROW_END

MAX_DEPTH = 12


class Leaf(NamedTuple):
    """A number, a formula or words."""

    text: str


class Bag(NamedTuple):
    """Answers in any order: ``1, 2``, ``1 or 2``, ``\\{1, 2\\}``, ``\\pm 1``, a union."""

    items: tuple[Form, ...]
    braces: bool = False
    decimal: str = ""
    """What it is if its comma is a decimal comma."""


class Row(NamedTuple):
    """Answers in order: a tuple, a vector, or an interval, which are written alike."""

    opening: str
    items: tuple[Form, ...]
    closing: str


class Named(NamedTuple):
    """``name = value`` or ``name \\in value``; ``sides`` are what stood between the two, ``relation`` the whole."""

    name: str
    value: Form
    sides: tuple[Form, ...] = ()
    relation: Relation | None = None


class Record(NamedTuple):
    """Values of several names: ``x = 1, y = 2``."""

    entries: tuple[Named, ...]


class Relation(NamedTuple):
    """A chain of sides with the relations between them."""

    sides: tuple[Form, ...]
    operators: tuple[str, ...]


class Without(NamedTuple):
    """All real numbers but some: ``x \\ne 1``."""

    points: Bag


class Ratio(NamedTuple):
    """``1:2:3``, also a time of day."""

    items: tuple[Form, ...]


class Grid(NamedTuple):
    """A matrix, whatever its brackets."""

    rows: tuple[tuple[Form, ...], ...]


class Choice(NamedTuple):
    """A letter of multiple choice with the value it stands for: ``(B) 12``."""

    letter: str
    value: Form


class Approximate(NamedTuple):
    """``exact \\approx decimal``."""

    exact: Form
    decimal: Form


Form = Leaf | Bag | Row | Named | Record | Relation | Without | Ratio | Grid | Choice | Approximate

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\{,\}|.", re.DOTALL)
_OPENERS = frozenset(["(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil", "\\begin"])
_CLOSERS = frozenset([")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil", "\\end"])
_PAIRS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}
FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}
_RELATIONS = frozenset(FLIPPED) | frozenset(
    "\\in \\approx \\equiv \\notin \\subset \\subseteq \\sim \\Rightarrow \\to \\rightarrow \\mapsto \\propto \\cong "
    "\\perp \\parallel".split()
)
_RELATED = re.compile(rf"[<>=]|{'|'.join(re.escape(word) for word in sorted(_RELATIONS) if len(word) > 1)}")
_LISTED = re.compile("[,;\x02\x03]")
_WORD_SEPARATOR = re.compile(
    r",? ?\\text ?\{ ?,? ?(and|or) ?,? ?\} ?|,? ?(?<![a-zA-Z\\])(and|or)(?![a-zA-Z]) ?"
    r"| ?\\(?:(lor|vee)|land|wedge)(?![a-zA-Z]) ?"
)
_CHOICE = re.compile(r"(?:\\text\{)?\(?([A-J])[).]\}? ?(?=[0-9\\(])(.+)|\\text\{\(?([A-J])\)?\}(?=[0-9\\(])(.+)")
_SECOND_CHOICE = re.compile(r"\([A-J]|(?<![A-Za-z])[A-J]\)|\b(?:or|and|is|not|false|wrong|incorrect)\b")
_LETTER = re.compile(r"(?:\\text\{)?\(?([A-Za-z])[).:]?\}?[.:)]?")
_ONE = r"(?:\\[a-zA-Z]+|[a-zA-Z])"
_ABSOLUTE = re.compile(rf"\|({_ONE})\|")
_MIRRORED = {"(": ")", ")": "(", "[": "]", "]": "["}
_GRID = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array|cases|aligned)\}((?:(?!\\begin).)*)\\end\{\1\}")
_POINT = re.compile(r"([A-Z])(\([^()]*,[^()]*\))")
_COLUMNS = re.compile(r"\{[clr| ]*\}")
_OUTWARD = re.compile(r"([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])")
"""An interval, which the French write ``]1, 2[`` when it is open."""
_TRAILING_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_REALS = frozenset(["\\mathbb{R}", "\\text{R}", "\\mathbf{R}"])
_SUB = r"(?:_(?:[a-zA-Z0-9]|\{[^{}]*\}))?'*"
_SYMBOL = rf"{_ONE}{_SUB}"
_ARGUMENT = rf"(?:-?[0-9.]+|{_SYMBOL})"
_UPPER = rf"(?:[A-Z]{_SUB})+"
_POINTS = (
    rf"(?:{_UPPER}|\|{_UPPER}\||\|\\(?:vec|overrightarrow|overline) ?\{{?[a-zA-Z]+\}}?\||\\overline\{{{_UPPER}\}})"
)
_DRAWN = r"angle|triangle|overline|overrightarrow|vec|bar|hat|tilde|Delta|measuredangle"
_NAME = re.compile(
    rf"{_SYMBOL}(?:\^\{{-1\}})?(?:\({_ARGUMENT}(?:, ?{_ARGUMENT})*\))?|{_UPPER}"
    rf"|{_POINTS}:{_POINTS}|{_POINTS}/{_POINTS}|\\frac\{{{_POINTS}\}}\{{{_POINTS}\}}|{_POINTS}"
    rf"|\[[A-Z]{{3,}}\]|m?\\(?:{_DRAWN}) ?\{{?[a-zA-Z]+\}}?"
    rf"|\\text\{{[^{{}}]*\}}(?:_(?:[a-zA-Z0-9]|\{{[^{{}}]*\}}))?(?:\([^()]*\))?"
    rf"|\\(?:deg|arg|dim|Re|Im|max|min) ?(?:{_SYMBOL}|\([^()]*\))"
)
_DENIAL = re.compile(r"\b(?:not|wrong|incorrect|false|never)\b")
_NOT_A_NAME = frozenset(("i \\pi \\infty \\emptyset \\pm \\mp \\sqrt \\ldots \\circ").split())
_VARIABLES = re.compile(r"\\(?:text|mathbb)\{[^{}]*\}|\\[a-zA-Z]+|([a-zA-Z])")
_CONSTANTS = frozenset("ei")


@lru_cache(maxsize=8192)
def parse(text: str) -> Form:
    """The form of a normalised answer."""
    return _parse(text, 0)


def names_in(text: str) -> bool:
    """Whether a formula has letters other than the constants e and i."""
    return any(
        match.group(1) not in _CONSTANTS if match.group(1) else match.group() in _GREEK_COMMANDS
        for match in _VARIABLES.finditer(text)
    )


def is_name(text: str) -> bool:
    """Whether a text names one quantity: ``x``, ``f(x)``, ``AB``, ``a_1``, ``\\angle ABC``, ``\\text{Area}``."""
    return text not in _NOT_A_NAME and bool(_NAME.fullmatch(text)) and not _DENIAL.search(text)


_GREEK_COMMANDS = frozenset(
    (
        "\\alpha \\beta \\gamma \\delta \\epsilon \\varepsilon \\zeta \\eta \\theta \\vartheta \\iota \\kappa "
        "\\lambda \\mu \\nu \\xi \\rho \\sigma \\tau \\upsilon \\phi \\varphi \\chi \\psi \\omega \\Gamma \\Delta "
        "\\Theta \\Lambda \\Omega"
    ).split()
)


def _parse(text: str, depth: int) -> Form:
    text = text.strip().strip(",").strip()
    if depth > MAX_DEPTH or not text:
        return Leaf(text)
    if numbers.read(text) or ("," in text and numbers.read(quantities.read(text).value)):
        return Leaf(text)
    if depth == 0 and (match := _CHOICE.fullmatch(text)):
        value = match[2] or match[4]
        if not _SECOND_CHOICE.search(quantities.read(value).value):
            return Choice(match[1] or match[3], _parse(value, 1))
    if depth == 0 and (match := _LETTER.fullmatch(text)):
        return Leaf(match[1])
    if depth == 0 and ("[" in text or "]" in text):
        text = _OUTWARD.sub(lambda m: "[("[m[1] == "]"] + m[2] + "])"[m[3] == "["], text)
    listed = _list(text, depth)
    if listed is not None:
        return listed
    if (related := _relation(text, depth)) is not None:
        return related
    if "\\cup" in text and (joined := _split(text, ("\\cup",))) and len(joined[0]) > 1:
        return _union([_parse(part, depth + 1) for part in joined[0]])
    if (
        "\\setminus" in text
        and (cut := _split(text, ("\\setminus",)))
        and len(cut[0]) == 2
        and cut[0][0].strip() in _REALS
    ):
        removed = _parse(cut[0][1], depth + 1)
        if isinstance(removed, Bag):
            return Without(removed)
    if (bracketed := _bracketed(text, depth)) is not None:
        return bracketed
    if (match := _POINT.fullmatch(text)) and isinstance(point := _parse(match[2], depth + 1), Row):
        return Named(match[1], point)
    if ":" in text and (ratio := _split(text, (":",))) and len(ratio[0]) > 1 and all(part.strip() for part in ratio[0]):
        return Ratio(tuple(_parse(part, depth + 1) for part in ratio[0]))
    if text in _REALS:
        return Row("(", (Leaf("-\\infty"), Leaf("\\infty")), ")")
    if text.count("\\pm") == 1:
        upper = text.replace("\\pm", "+").replace("\\mp", "-")
        lower = text.replace("\\pm", "-").replace("\\mp", "+")
        return Bag((_parse(_signed(upper), depth + 1), _parse(_signed(lower), depth + 1)))
    return Leaf(text)


def _union(parts: Sequence[Form]) -> Form:
    """The union of sets as one set, of other things as a list."""
    if all(isinstance(part, Bag) and part.braces for part in parts):
        return Bag(tuple(item for part in parts if isinstance(part, Bag) for item in part.items), True)
    merged = list(parts)
    for place in range(len(parts) - 1, 0, -1):
        before, after = merged[place - 1], merged[place]
        if isinstance(before, Row) and isinstance(after, Row) and len(before.items) == len(after.items) == 2:
            touching = before.items[1] == after.items[0] and (before.closing == "]" or after.opening == "[")
            if touching:
                merged[place - 1 : place + 1] = [Row(before.opening, (before.items[0], after.items[1]), after.closing)]
    return Bag(tuple(merged)) if len(merged) > 1 else merged[0]


def _signed(text: str) -> str:
    """Without a plus that has nothing before it."""
    return re.sub(r"(^|[({\[=,])\+ ?", r"\1", re.sub(r"([+-]) ", r"\1", text))


def _list(text: str, depth: int) -> Form | None:
    """A bare list.  Semicolons and ``or`` separate groups, commas and ``and`` the members of one."""
    text = _WORD_SEPARATOR.sub(lambda m: "\x03" if "or" in m.groups() or m.group(3) else "\x02", text)
    if not _LISTED.search(text):
        return None
    outer = _split(text, (";", "\x03"))
    if outer is None:
        return None
    if len(outer[0]) == 1:
        return _group(outer[0][0], depth, "")
    parts = [part for part in outer[0] if part.strip(" ,\x02")]
    groups = [_group(part, depth, "or") or _parse(part, depth + 1) for part in parts]
    if len(groups) == 1:
        return groups[0]
    if not all(isinstance(group, Record) for group in groups):
        groups = [item for group in groups for item in _members(group)]
    return _collect(groups, "or" if "\x03" in text else "")


def _is_bare(form: Form) -> bool:
    return isinstance(form, Bag) and not form.braces


def _members(form: Form) -> tuple[Form, ...]:
    """What a bare list holds; any other form itself."""
    return form.items if isinstance(form, Bag) and not form.braces else (form,)


def _group(text: str, depth: int, joint: str) -> Form | None:
    """What commas and ``and`` separate, None if nothing does."""
    if ", " in text and re.search(r"[0-9],[0-9]{3}(?![0-9])", text):
        parts = [part.strip() for part in re.split(r", |\x02", text)]
        if len(parts) > 1 and all("," not in part or _TRAILING_THOUSANDS.fullmatch(part) for part in parts):
            return _collect([_parse(part, depth + 1) for part in parts if part], joint)
    split = _split(text, (",", "\x02"))
    if split is None or len(split[0]) == 1:
        return None
    parts = [part for part in split[0] if part.strip()]
    items = [_parse(part, depth + 1) for part in parts]
    items = [inner for item in items for inner in _members(item)]  # 0, \pm 2
    if depth == 0 and re.fullmatch(r"-?[0-9]+,[0-9]+", text):
        return Bag(tuple(items), False, text.replace(",", "."))
    joint = joint or ("and" if "\x02" in split[1] else "")
    return _collect(items, joint) if len(items) > 1 else (items[0] if items else None)


def _collect(items: Sequence[Form], joint: str) -> Form:
    """A list, with names that all members share put before it, and inequalities on one name joined.

    Args:
        joint: ``or``, ``and``, or empty for a comma, which may mean either.
    """
    named = [item for item in items if isinstance(item, Named)]
    if len(named) == len(items):
        if len({item.name for item in named}) == 1:
            ends = _between(named) if joint != "or" else None
            if joint == "and" and not ends and _intervals(item.value for item in named):
                return Leaf(repr(items))  # an intersection that is not worked out
            return Named(named[0].name, ends or Bag(tuple(item.value for item in named)))
        if len({item.name for item in named}) == len(named):
            return Record(tuple(named))
    elif named == [items[0]] and isinstance(items[0], Named) and not _intervals([named[0].value]):
        rest = [item for item in items[1:] if isinstance(item, Leaf | Row | Bag)]
        if len(rest) == len(items) - 1:
            return Named(named[0].name, Bag((named[0].value, *rest)))
    return Bag(tuple(items))


def base(name: str) -> str:
    """A name without its number: ``x_1`` is one of the ``x``."""
    return re.sub(r"_(?:[0-9]|\{[0-9]+\})", "", name)


def _intervals(forms: Iterable[Form]) -> bool:
    return all(isinstance(form, Row) and len(form.items) == 2 for form in forms)


def _between(named: Sequence[Named]) -> Row | None:
    """``x > a`` and ``x < b`` together, as an interval."""
    values = [item.value for item in named]
    if len(values) != 2 or not _intervals(values):
        return None
    first, second = values
    if not (isinstance(first, Row) and isinstance(second, Row)):
        return None
    if first.items[0] == Leaf("-\\infty"):
        first, second = second, first
    if first.items[1] != Leaf("\\infty") or second.items[0] != Leaf("-\\infty"):
        return None
    below, above = (
        numbers.read(form.text) if isinstance(form, Leaf) else None for form in (first.items[0], second.items[1])
    )
    if below and above and below.value > above.value:
        return None
    return Row(first.opening, (first.items[0], second.items[1]), second.closing)


def _relation(text: str, depth: int) -> Form | None:
    """A chain of relations, as a named value or interval where it is one; None if there is no relation."""
    split = _split(text, _RELATIONS) if _RELATED.search(text) else None
    if split is None or not split[1]:
        return None
    parts, operators = [part.strip() for part in split[0]], split[1]
    if not all(parts):
        return Leaf(text)
    if operators[-1] == "\\approx":
        exact = text[: text.rindex("\\approx")].strip()
        decimal = _parse(parts[-1], depth + 1)
        if len(operators) == 1:
            return Named(exact, decimal) if is_name(exact) else Approximate(_parse(exact, depth + 1), decimal)
        inner = _parse(exact, depth + 1)
        return inner._replace(value=Approximate(inner.value, decimal)) if isinstance(inner, Named) else inner
    sides = tuple(_parse(part, depth + 1) for part in parts)
    relation = Relation(sides, tuple(operators))
    if set(operators) == {"="}:
        return _equation(parts, sides, relation)
    if operators == ["\\in"] or (operators == ["=", "\\in"] and is_name(parts[0])):
        return Named(parts[0], sides[-1]) if _names(parts[0]) else relation
    if operators == ["\\ne"]:
        for side, point in ((0, 1), (1, 0)):
            if is_name(parts[side]) and not is_name(parts[point]):
                return Named(parts[side], Without(Bag((sides[point],))))
    interval = _interval(parts, sides, operators)
    return Named(*interval, (), relation) if interval else relation


def _names(text: str) -> bool:
    """Whether a text is a name or a tuple of names."""
    return is_name(text) or (
        text[:1] == "(" and text[-1:] == ")" and all(is_name(p.strip()) for p in text[1:-1].split(","))
    )


def _equation(parts: Sequence[str], sides: tuple[Form, ...], relation: Relation) -> Form:
    if _names(parts[0]):
        named = 1
        while named < len(parts) - 1 and _names(parts[named]):
            named += 1
        return Named(parts[0], sides[-1], sides[named:-1], relation)
    if len(parts) == 2 and is_name(parts[1]) and not names_in(parts[0]):
        return Named(parts[1], sides[0], (), relation)
    if not any(names_in(part) for part in parts):
        return Named("", sides[-1], sides[:-1], relation)
    return relation


def _interval(parts: Sequence[str], sides: tuple[Form, ...], operators: Sequence[str]) -> tuple[str, Form] | None:
    """``a < x \\le b`` or ``x > a`` as the name and its interval."""
    if len(parts) == 3 and len({operator in ("<", "\\le") for operator in operators}) == 1:
        if not _bounded(parts[1]) or not set(operators) <= {"<", "\\le", ">", "\\ge"}:
            return None
        if operators[0] in (">", "\\ge"):
            sides, operators = sides[::-1], [FLIPPED[operator] for operator in operators[::-1]]
        brackets = "(" if operators[0] == "<" else "[", ")" if operators[1] == "<" else "]"
        if match := _ABSOLUTE.fullmatch(parts[1]):
            below = Row(_MIRRORED[brackets[1]], (_negative(sides[2]), _negative(sides[0])), _MIRRORED[brackets[0]])
            return match[1], Bag((below, Row(brackets[0], (sides[0], sides[2]), brackets[1])))
        return parts[1], Row(brackets[0], (sides[0], sides[2]), brackets[1])
    if len(parts) != 2 or operators[0] not in ("<", "\\le", ">", "\\ge"):
        return None
    if _bounded(parts[0]) and not is_name(parts[1]):
        name, operator, end = parts[0], operators[0], sides[1]
    elif _bounded(parts[1]) and not is_name(parts[0]):
        name, operator, end = parts[1], FLIPPED[operators[0]], sides[0]
    else:
        return None
    if match := _ABSOLUTE.fullmatch(name):
        return match[1], _absolute(operator, end)
    if operator in ("<", "\\le"):
        return name, Row("(", (Leaf("-\\infty"), end), ")" if operator == "<" else "]")
    return name, Row("(" if operator == ">" else "[", (end, Leaf("\\infty")), ")")


def _bounded(text: str) -> bool:
    """Whether bounds on a text are an interval: it is a name or the absolute value of one."""
    return is_name(text) or bool(_ABSOLUTE.fullmatch(text))


def _negative(form: Form) -> Form:
    text = form.text if isinstance(form, Leaf) else ""
    if text in ("", "0"):
        return form
    if re.search(r".[-+]", text):
        return Leaf(f"-({text})")
    return Leaf(text[1:] if text[0] == "-" else f"-{text}")


def _absolute(operator: str, end: Form) -> Form:
    """Where ``|x|`` is below or above a bound."""
    if operator in ("<", "\\le"):
        brackets = ("(", ")") if operator == "<" else ("[", "]")
        return Row(brackets[0], (_negative(end), end), brackets[1])
    inner = (")", "(") if operator == ">" else ("]", "[")
    below = Row("(", (Leaf("-\\infty"), _negative(end)), inner[0])
    return Bag((below, Row(inner[1], (end, Leaf("\\infty")), ")")))


def _bracketed(text: str, depth: int) -> Form | None:
    """What is in brackets as a whole, None if nothing is."""
    if match := _GRID.fullmatch(text):
        return _grid(match[1], match[2], depth)
    tokens = _TOKEN.findall(text)
    opening, closing = tokens[0], tokens[-1]
    if opening not in _PAIRS or closing not in _PAIRS.values() or len(tokens) < 2:
        return Leaf("\\emptyset") if text == "\\emptyset" else None
    level = 0
    for place, token in enumerate(tokens):
        level += (token in _OPENERS) - (token in _CLOSERS)
        if level == 0 and place < len(tokens) - 1:
            return None
    inner = "".join(tokens[1:-1]).strip()
    kind = opening + closing
    if kind == "\\{\\}":
        return _set(inner, depth)
    if kind == "{}":
        return _parse(inner, depth + 1)
    parts = _split(inner, (",", ";"))
    if parts is None:
        return None
    if len(parts[0]) == 1:
        alone = _parse(inner, depth + 1)
        return alone if kind == "()" or (kind == "[]" and isinstance(alone, Grid)) else None
    items = tuple(_parse(part, depth + 1) for part in parts[0])
    if opening == "\\langle":
        opening, closing = "(", ")"
    if opening not in "([" or closing not in ")]":
        return None
    signed = [place for place, item in enumerate(items) if _is_bare(item)]
    if len(signed) != 1 or "\\pm" not in parts[0][signed[0]]:
        return Row(opening, items, closing)
    place, bag = signed[0], items[signed[0]]
    assert isinstance(bag, Bag)
    return Bag(tuple(Row(opening, (*items[:place], item, *items[place + 1 :]), closing) for item in bag.items))


def _set(inner: str, depth: int) -> Form:
    if not inner:
        return Leaf("\\emptyset")
    for mark in ("|", ":"):
        built = _split(inner, (mark,))
        if built and len(built[0]) == 2:
            head, condition = (part.strip() for part in built[0])
            head, _, domain = head.partition("\\in")
            if domain.strip() not in ("", *_REALS):
                return Leaf("\\{" + inner + "\\}")
            form = _parse(condition, depth + 1)
            if isinstance(form, Named) and form.name == head.strip():
                return form.value
            return Leaf("\\{" + inner + "\\}")
    parts = _split(inner, (",", ";"))
    items = tuple(_parse(part, depth + 1) for part in (parts[0] if parts else [inner]) if part.strip())
    return Bag(tuple(inner for item in items for inner in _members(item)), True)


def _grid(kind: str, body: str, depth: int) -> Form:
    if kind == "array":
        body = _COLUMNS.sub("", body, count=1)
    rows = [row for row in body.split(ROW_END) if row.strip()]
    cells = tuple(tuple(_parse(cell, depth + 1) for cell in row.split("&")) for row in rows)
    if kind in ("cases", "aligned"):
        joined = ["".join(row.split("&")) for row in rows]
        return Leaf(ROW_END.join(joined)) if kind == "cases" and "&" in body else _parse(", ".join(joined), depth + 1)
    return Grid(cells)


def _split(text: str, separators: Iterable[str]) -> tuple[list[str], list[str]] | None:
    """A text cut at the separators that stand in no bracket, and those separators; None if brackets do not match."""
    separators = separators if isinstance(separators, frozenset) else frozenset(separators)
    parts, found, begin, level, bars = [], [], 0, 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENERS:
            level += 1
        elif token in _CLOSERS:
            level -= 1
            if level < 0:
                return None
        elif level == 0 and token == "|" and "|" not in separators:
            bars ^= 1
        elif level == 0 and not bars and token in separators:
            parts.append(text[begin : match.start()])
            found.append(token)
            begin = match.end()
    if level:
        return None
    parts.append(text[begin:])
    return parts, found
