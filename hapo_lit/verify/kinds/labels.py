"""Labels: names with digits in them, such as ``CO2``, ``A1B2``, ``May 5``, ``Box 3``.  They are not algebra.

As a product ``CO2`` would equal ``2CO``, and ``Box 3`` would equal ``Bxo 3``.  So a label equals itself, letter for
letter; an index or upright type makes no difference: ``CO_2`` is ``CO2``, and ``\\text{May }5`` is ``May 5``.

What is a label, and what is not:

- letters with a digit right after one of them, at least two letters: ``CO2``, ``C6H12O6``, ``A1B2``, ``R2D2``.  A
  single letter with digits is a letter with an index (``x2`` is ``x_2``), which :mod:`hapo_lit.verify.latex` respells;
  ``2xy`` and ``n2^{n-1}`` are products;
- symbols of chemical elements with an index, ``H_2O``, or a charge, ``Na^+``, ``SO_4^{2-}``; other products of letters
  with an index are algebra, ``a_1a_2``;
- a word of three letters or more and then a whole number: ``May 5``, ``Box 3``, ``COVID-19``.  Case does not matter
  there, and it does in ``Co2`` and ``CO2``.
"""

from __future__ import annotations

import re

_DIGIT, _LETTER = re.compile("[0-9]"), re.compile("[A-Za-z]")
_MARKUP = re.compile(r"\\text ?\{([^{}]*)\}|[{}_]")
_TYPE = re.compile(r"\\text ?\{([^{}]*)\}|[{}]")
_PLAIN = re.compile(r"[A-Za-z0-9()\[\]. -]+")
_LETTERS_AND_DIGITS = re.compile(r"(?:[0-9]*[A-Z(\[]|[a-z])[A-Za-z0-9()\[\]]+")
_GLUE = re.compile(r"[A-Za-z)\]][0-9]")
_NUMBERED = re.compile(r"([A-Za-z]{3,}(?:[ -][A-Za-z]+)*) ?([0-9]+)|[A-Za-z]{3,}-[0-9]+")
_ELEMENTS = frozenset(
    (
        "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
        "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
        "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu"
    ).split()
)
_MOLECULE = re.compile(r"(?:[A-Z][a-z]?[0-9]*|\((?=[A-Z])|(?<=[A-Za-z0-9])\)[0-9]*)+")
_ELEMENT = re.compile(r"[A-Z][a-z]?")
_CHARGED = re.compile(r"([A-Za-z0-9()\[\]{}_\\ ]+)\^(?:\{ ?([0-9]?)([+-])([0-9]?) ?\}|([0-9]?)([+-]))")
_FIRST = re.compile(r"[A-Za-z)]1(?![0-9])")
_FUNCTIONS = re.compile(r"(?:sqrt|sin|cos|tan|cot|sec|csc|log|exp|abs|max|min|gcd|lcm)(?![a-z])", re.IGNORECASE)


def read(text: str) -> str | None:
    """A label without markup; None for what is none.

    >>> read("CO_2"), read("\\\\text{Box }3"), read("a_1a_2")
    ('CO2', 'box 3', None)
    """
    charged = text[-1:] in ("+", "-", "}") and "^" in text
    if not (charged or _DIGIT.search(text)) or not _LETTER.search(text):
        return None
    plain = key(text)
    if plain is None:
        return None
    if "^" in plain:
        return plain
    if _NUMBERED.fullmatch(plain):
        return None if _FUNCTIONS.match(plain) else plain
    written = _TYPE.sub(lambda match: match[1] or "", text)
    return plain if _is_glued(plain) and (_is_glued(written) or _is_molecule(plain)) else None


def key(text: str) -> str | None:
    """What a label is compared by, for a text that may be none; None if it has signs that no label has."""
    if match := _CHARGED.fullmatch(text):
        ion = key(match[1])
        known = ion and _MOLECULE.fullmatch(ion) and _ELEMENTS.issuperset(_ELEMENT.findall(ion))
        return f"{ion}^{match[2] or match[4] or match[5] or ''}{match[3] or match[6]}" if known else None
    plain = " ".join(_MARKUP.sub(lambda match: match[1] or "", text).split())
    if not _PLAIN.fullmatch(plain):
        return None
    if match := _NUMBERED.fullmatch(plain):
        return f"{match[1]} {match[2]}".lower() if match[1] else plain.lower()
    return plain


def compare(gold: str, answer: str) -> bool:
    """At least one side is a label."""
    return key(gold) == key(answer) is not None


def _is_glued(text: str) -> bool:
    """Whether a text is at least two letters, with digits right after one of them."""
    letters = sum(character.isalpha() for character in text)
    return letters > 1 and bool(_LETTERS_AND_DIGITS.fullmatch(text) and _GLUE.search(text))


def _is_molecule(plain: str) -> bool:
    """Whether letters and digits, which may have been indices, are a formula of chemistry: no index is 1 there."""
    symbols = _ELEMENT.findall(plain)
    known = len(symbols) > 1 and _ELEMENTS.issuperset(symbols)
    return known and bool(_MOLECULE.fullmatch(plain)) and not _FIRST.search(plain)
