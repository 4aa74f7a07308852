"""A value and its unit.  Units are compared, never converted."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from hapo_lit.verify.kinds import formulas, numbers
from hapo_lit.verify.rules import Rules, Truth, kleene_or

UNKNOWN = "?"
"""Stands before a word that is a unit only if both sides have it."""


class Quantity(NamedTuple):
    """``value`` is what the text is without its ``unit``, which is spelled in one way, and empty if there is none."""

    value: str
    unit: str = ""
    percent: bool = False


_ALIASES = {
    "millimeter": "mm millimetre", "centimeter": "cm centimetre", "decimeter": "dm decimetre", "meter": "m metre",
    "kilometer": "km kilometre", "inch": "in inches", "foot": "ft feet", "yard": "yd", "mile": "mi",
    "gram": "g gm gramme", "kilogram": "kg kilo kilogramme", "milligram": "mg", "ton": "tonne", "pound": "lb lbs",
    "ounce": "oz", "liter": "l litre", "milliliter": "ml millilitre mL", "gallon": "gal", "second": "s sec",
    "minute": "min", "hour": "h hr", "day": "", "week": "wk", "month": "", "year": "yr", "degree": "deg",
    "radian": "rad", "kmh": "km/h kph kmph km/hr km/hour", "mph": "mi/h miles/hour", "mps": "m/s m/sec",
    "hertz": "Hz", "newton": "N", "joule": "J", "watt": "W", "volt": "V", "ampere": "A amp", "ohm": "", "kelvin": "K",
    "mole": "mol", "pascal": "Pa", "hectare": "ha", "acre": "", "dollar": "usd $ dollars", "euro": "eur €",
    "yen": "jpy ¥", "rupee": "inr rs ₹", "cent": "¢ c", "yuan": "cny rmb", "pence": "p", "gbp": "£ pounds_sterling",
    "unit": "", "point": "pt", "percent": "% pct percentage percent", "celsius": "C °C degree_c degree_celsius",
    "fahrenheit": "F degree_f degree_fahrenheit", "am": "a.m. a.m", "pm": "p.m. p.m", "person": "people persons",
    "child": "children", "man": "men", "woman": "women", "centavo": "", "knot": "", "mole_per_liter": "mol/L",
}  # fmt: skip
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in (name, *aliases.split())}
_NOUNS = frozenset(
    (
        "apple ball bag bird block book bottle box boy brick bus cake candle candy car card cat chair chicken "
        "chocolate choice cookie combination cow crayon cup desk distinct integer dog egg element face fish flower "
        "game girl guest handshake house human item lap letter line marble marker match member mile minute number "
        "orange outcome page pair pen pencil people permutation pie piece pizza place player plant point "
        "possibility pupil question rectangle root row seat side solution square stamp step sticker stone student "
        "sweet team ticket time tile toy tree triangle trip truck turn value vertex way win word worker integer "
        "real "
    ).split()
)
_KNOWN = frozenset(_ALIASES) | _NOUNS
_BARE = sorted(
    {word for word in _CANONICAL if len(word) > 1 and re.fullmatch(r"[a-z]+", word)} - {"in", "deg", "min", "am", "pm"}
    | {"deg", "min", "am", "pm", "mL", "Hz", "units", "square", "cubic"},
    key=len,
    reverse=True,
)
_STOP_WORDS = frozenset(
    (
        "not no is are or and more less than least most about approximately around mod modulo base "
        "squared cubed factorial negative minus plus times divided over wrong false true none never if "
        "for when where with without but except only either neither nor to from between million billion "
        "thousand hundred trillion dozen half quarter third"
    ).split()
)
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALED = re.compile(rf"(.*[0-9]) ?(?:\\text\{{({'|'.join(_SCALES)})\}}|({'|'.join(_SCALES)})(?![a-z])) ?(.*)")
_POWER = r"(?:\^(?:\{?([23])\}?))?"
_TEXT_UNIT = re.compile(rf"(.*?) ?((?:(?> ?(?:(?:/|\\cdot) ?)?\\text ?\{{[^{{}}]*\}}{_POWER}))++ ?)")
_TEXT_PART = re.compile(r"(/|\\cdot)? ?\\text ?\{([^{}]*)\}(?:\^\{?(-?[0-9])\}?)? ?")
_BARE_UNIT = re.compile(
    rf"(.*?[0-9)}}]) ?((?:(?>(?:{'|'.join(map(re.escape, _BARE))})s?(?: |/|(?![a-zA-Z]))))++(?:[a-z]+s?)?){_POWER}"
)
_PLURAL_WORDS = re.compile(r"(.*?[0-9}]) ([a-z]{3,}(?: [a-z]{2,}){0,2})")
_DEGREE = re.compile(r"(.*?)\^\\circ ?(C|F|\\text\{ ?[CF] ?\})?")
_SPEEDS = {"mph": "mile/hour", "kmh": "kilometer/hour", "mps": "meter/second"}
_UNIT_WORD = re.compile(r"([A-Za-z$€£¥₹¢%.']+)(?:\^?\{?(-?[1-4])\}?)?")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_CURRENCY = re.compile(
    r"(-?) ?(\\\$|[$€£¥₹]|\\text\{ ?(?:\\?\$|Rs\.?|USD|EUR|€|£) ?\}|\\pounds|\\euro|(?:USD|US\\\$|Rs\.?) ?)(.+)"
)
_CURRENCY_AFTER = re.compile(r"(.+?) ?(\\\$|[$€£¥₹¢]|\\pounds|\\euro|USD|EUR)")
_ORDINAL = re.compile(r"([0-9]+)\^?\{?(?:\\text\{)?(?:st|nd|rd|th)\}{0,2}")
_SIGNS = {
    "\\$": "dollar",
    "$": "dollar",
    "€": "euro",
    "£": "gbp",
    "¥": "yen",
    "₹": "rupee",
    "\\pounds": "gbp",
    "\\euro": "euro",
}


@lru_cache(maxsize=8192)
def read(text: str) -> Quantity:
    """The value and the unit of a normalised formula without top-level commas."""
    if text[-1:].isdigit() and text[:1] not in "\\$€£¥₹UR-" and "\\" not in text:
        return Quantity(text)
    if match := _ORDINAL.fullmatch(text):
        return Quantity(match[1])
    if match := _CURRENCY.fullmatch(text):
        inner = read(match[3])
        sign = _SIGNS.get(match[2]) or _word(re.sub(r"\\text|[{}\\ .]", "", match[2]))
        if inner.unit in ("", sign):
            return Quantity(match[1] + inner.value, sign)
        return Quantity(text)
    if text.endswith("%"):
        share = text[:-1].strip()
        return Quantity(text) if re.search(r".[-+]|%", share) else Quantity(share, "", True)
    if (match := _SCALED.fullmatch(text)) and not match[4].startswith(("^", "_")):
        inner = read(match[1] + (" " + match[4] if match[4] else ""))
        return Quantity(rf"{inner.value}\cdot{_SCALES[match[2] or match[3]]}", inner.unit)
    if (match := _DEGREE.fullmatch(text)) and not _FUNCTION.search(match[1]):
        scale = re.sub(r"\\text|[{} ]", "", match[2] or "")
        return Quantity(match[1], {"": "degree", "C": "celsius", "F": "fahrenheit"}[scale])
    if match := _CURRENCY_AFTER.fullmatch(text):
        return Quantity(match[1], _SIGNS.get(match[2]) or _word(match[2]))
    for pattern in (_TEXT_UNIT, _BARE_UNIT, _PLURAL_WORDS):
        match = pattern.fullmatch(text)
        if match is None or not match[1].strip() or re.search(r"[-+*/^_=(\\]\Z|\\text", match[1]):
            continue
        power = match[3] if pattern is _BARE_UNIT else None
        unit = _text_unit(match[2]) if pattern is _TEXT_UNIT else _unit(match[2], power)
        if unit is not None:
            return Quantity(match[1].strip(), "", True) if unit == "percent" else Quantity(match[1].strip(), unit)
    return Quantity(text)


def _text_unit(text: str) -> str | None:
    """The unit in one or more ``\\text{}``."""
    found = []
    for join, words, power in _TEXT_PART.findall(text):
        unit = _unit(words, power or None)
        if unit is None:
            return None
        found.append(("/" if join == "/" else "") + unit)
    return "".join(found).strip()


def _unit(words: str, power: str | None = None) -> str | None:
    """The standard spelling of a unit, None if the words are not one."""
    words = words.strip().strip(".").replace("°", "degree ")
    parts = [part for part in re.split(r" per |(?<=\w) ?/ ?| an? (?=hour|day)", words) if part]
    spelled = []
    for part in parts:
        raise_to = power if len(parts) == 1 else None
        names: list[str] = []
        for word in part.replace("-", " ").split():
            if word.lower() in _STOP_WORDS or (match := _UNIT_WORD.fullmatch(word)) is None:
                return None
            if word.lower() in ("square", "sq", "sq."):
                raise_to = "2"
            elif word.lower() in ("cubic", "cu", "cu."):
                raise_to = "3"
            elif word.lower() == "of" and names:
                break
            else:
                name = _word(match[1])
                names.append(
                    (name if name in _KNOWN else UNKNOWN + name)
                    + (f"^{match[2]}" if match[2] not in (None, "1") else "")
                )
        if len(names) > 4:
            return None
        spelled.append(" ".join(names or ["unit"]) + (f"^{raise_to}" if raise_to and raise_to != "1" else ""))
    unit = "/".join(spelled)
    return _SPEEDS.get(unit, unit)


def _word(word: str) -> str:
    """One word of a unit: abbreviations spelled out, the plural as the singular."""
    for form in (word, word.lower(), word.lower().rstrip("."), word.lower().rstrip(".").removesuffix("s")):
        if form in _CANONICAL:
            return _CANONICAL[form]
    plain = word.lower().strip(".'")
    for ending, singular in (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("s", "")):
        if plain.endswith(ending) and len(plain) > len(ending) + 1 and not plain.endswith("ss"):
            return plain.removesuffix(ending) + singular
    return plain


def compare(rules: Rules, left: Quantity, right: Quantity) -> Truth:
    """At least one side has a unit or a percent sign."""
    if left.unit != right.unit:
        alone = left.unit or right.unit
        if (left.unit and right.unit) or UNKNOWN in alone or not rules.conventions.units_optional:
            return False
    if left.percent == right.percent:
        return formulas.compare(rules, left.value, right.value)
    share, plain = (left, right) if left.percent else (right, left)
    truths = [formulas.compare(rules, share.value, plain.value) if rules.conventions.percent_optional else False]
    if rules.conventions.percent_as_ratio and not plain.unit and truths[0] is not True:
        truths.append(formulas.compare(rules, _hundredth(share.value), plain.value))
    return kleene_or(truths)


def _hundredth(value: str) -> str:
    number = numbers.read(value)
    if number is None:
        return rf"\frac{{{value}}}{{100}}"
    share: Fraction = number.value / 100
    return f"{share.numerator}/{share.denominator}" if share >= 0 else f"-{-share.numerator}/{share.denominator}"
