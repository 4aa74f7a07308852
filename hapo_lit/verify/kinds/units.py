"""Units and their spellings: ``cm`` is centimeter, ``kph`` is kilometer/hour, ``apples`` are apple.

Tables, and how one word is looked up in them.  What the words between or beside units mean is in ``counted.py``; how a
unit is found beside a value in ``quantities.py``.
"""

from __future__ import annotations

import re

ALIASES = {
    "millimeter": "mm millimetre", "centimeter": "cm centimetre", "decimeter": "dm decimetre", "meter": "m metre",
    "kilometer": "km kilometre", "inch": "in inches", "foot": "ft feet", "yard": "yd", "mile": "mi",
    "gram": "g gm gramme", "kilogram": "kg kilo kilogramme", "milligram": "mg", "ton": "tonne", "pound": "lb lbs",
    "ounce": "oz", "liter": "l litre L", "milliliter": "ml millilitre mL", "deciliter": "dl decilitre dL",
    "centiliter": "cl centilitre cL", "gallon": "gal", "quart": "qt", "pint": "",
    "second": "s sec", "millisecond": "ms", "minute": "min", "hour": "h hr", "day": "", "week": "wk", "month": "",
    "year": "yr", "decade": "", "century": "",
    "degree": "deg", "radian": "rad", "kmh": "km/h kph kmph km/hr km/hour", "mph": "mi/h miles/hour",
    "mps": "m/s m/sec", "hertz": "Hz", "newton": "N", "joule": "J", "watt": "W", "kilowatt": "kW", "volt": "V",
    "ampere": "A amp", "ohm": "", "kelvin": "K", "mole": "mol", "pascal": "Pa", "hectare": "ha", "acre": "",
    "bit": "", "byte": "", "kilobit": "kbit", "megabit": "Mbit", "gigabit": "Gbit",
    "kilobyte": "kB KB kb", "megabyte": "MB mb", "gigabyte": "GB gb", "terabyte": "TB tb",
    "rpm": "", "mpg": "", "fps": "", "teaspoon": "tsp", "tablespoon": "tbsp",
    "dollar": "usd $ dollars", "euro": "eur €", "yen": "jpy ¥", "rupee": "inr rs ₹", "paisa": "paise", "cent": "¢ c",
    "yuan": "cny rmb", "pence": "p", "gbp": "£ pounds_sterling", "centavo": "",
    "unit": "", "point": "pt", "percent": "% pct percentage percent", "celsius": "C °C degree_c degree_celsius",
    "fahrenheit": "F degree_f degree_fahrenheit", "am": "a.m. a.m", "pm": "p.m. p.m", "person": "people persons",
    "child": "children", "man": "men", "woman": "women", "knot": "", "mole_per_liter": "mol/L",
}  # fmt: skip
_CANONICAL = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases.split())}
NAMES = frozenset(ALIASES)

SPEEDS = {"mph": "mile/hour", "kmh": "kilometer/hour", "mps": "meter/second"}
SIGNS = {
    "\\$": "dollar",
    "$": "dollar",
    "€": "euro",
    "£": "gbp",
    "¥": "yen",
    "₹": "rupee",
    "\\pounds": "gbp",
    "\\euro": "euro",
}
SECONDS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
"""The only units that are converted.  A week, a month and a year are not among them: nor are metres or pounds."""

DIMENSIONS = (
    ("year", "month", "week", "day", "hour", "minute", "second"),
    ("degree", "minute", "second"),
    ("mile", "yard", "foot", "inch"),
    ("kilometer", "meter", "decimeter", "centimeter", "millimeter"),
    ("ton", "stone", "pound", "ounce"),
    ("ton", "kilogram", "gram", "milligram"),
    ("gallon", "quart", "pint", "cup", "ounce"),
    ("liter", "deciliter", "centiliter", "milliliter"),
    ("terabyte", "gigabyte", "megabyte", "kilobyte", "byte", "bit"),
    ("dollar", "cent"),
    ("euro", "cent"),
    ("gbp", "pence"),
    ("pound", "pence"),
    ("rupee", "paisa"),
)
"""Units of one dimension that are said together, from large to small: ``5 ft 7 in``."""

PLAIN = sorted(
    {word for word in _CANONICAL if len(word) > 1 and re.fullmatch(r"[a-z]+", word)}
    - set("in deg min am pm ms qt cl dl kb mb gb tb rpm mpg fps".split())
    | {"deg", "min", "am", "pm", "mL", "Hz", "kB", "KB", "MB", "GB", "TB", "units", "square", "cubic"},
    key=len,
    reverse=True,
)
"""What is read as a unit in plain letters behind a number, longest first."""

_IRREGULAR = {
    "buses": "bus", "bus": "bus", "gas": "gas", "gases": "gas", "lens": "lens", "lenses": "lens", "series": "series",
    "species": "species", "mice": "mouse", "geese": "goose", "teeth": "tooth", "oxen": "ox", "leaves": "leaf",
    "loaves": "loaf", "shelves": "shelf", "knives": "knife", "wolves": "wolf", "calves": "calf", "thieves": "thief",
    "wives": "wife", "lives": "life", "vertices": "vertex", "matrices": "matrix", "indices": "index", "dice": "die",
    "quizzes": "quiz", "axes": "axis", "policemen": "policeman", "firemen": "fireman", "salesmen": "salesman",
    "grandchildren": "grandchild", "pence": "pence", "canvas": "canvas", "octopus": "octopus",
}  # fmt: skip
PLURALS = frozenset(word for word, singular in _IRREGULAR.items() if word != singular) | {"series", "species"}
"""Plurals that are not made with an s."""
_ENDINGS = (("ies", "y"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("sses", "ss"), ("oes", "o"), ("s", ""))


def spelled(word: str) -> str:
    """One word in its standard spelling: abbreviations spelled out, the plural as the singular.

    The singular serves to compare two words and need not be English: ``cookie`` and ``cookies`` are both ``cooky``.
    """
    for form in (word, word.lower(), word.lower().rstrip("."), word.lower().rstrip(".").removesuffix("s")):
        if form in _CANONICAL:
            return _CANONICAL[form]
    plain = word.lower().strip(".'")
    if plain in _IRREGULAR:
        return _IRREGULAR[plain]
    for ending, singular in _ENDINGS:
        if plain.endswith(ending) and len(plain) > len(ending) + 1 and not plain.endswith("ss"):
            plain = plain.removesuffix(ending) + singular
            break
    if len(plain) > 3 and plain.endswith("ie"):
        return plain[:-2] + "y"
    return plain[:-1] if len(plain) > 3 and plain.endswith("oe") else plain
