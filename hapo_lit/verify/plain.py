"""Plain notation as LaTeX: what calculators, Python and e-mails write.

============================================  ================================================
``x**12``, ``2^(n-1)``, ``x^-1``, ``e^-x``      ``x^{12}``, ``2^{n-1}``, ``x^{-1}``, ``e^{-x}``
``sqrt(x+(y-1))``, ``cbrt(x)``, ``sqrt2``       ``\\sqrt{x+(y-1)}``, ``\\sqrt[3]{x}``, ``\\sqrt{2}``
``exp(-2*t)``, ``abs(x-1)``, ``floor(x)``       ``e^{-2*t}``, ``|x-1|``, ``\\lfloor x\\rfloor``
``sin x``, ``asin(x)``, ``log10(x)``            ``\\sin x``, ``\\arcsin(x)``, ``\\log_{10}(x)``
``gcd(12,18)``, ``max(a,b)``                    ``\\gcd(12,18)``, ``\\max(a,b)``
``binomial(n,2)``, ``pow(x,2)``, ``log(8,2)``     ``\\binom{n}{2}``, ``((x)^{2})``, ``\\log_{2}(8)``
``alpha1``, ``2*theta``, ``inf``                ``\\alpha_1``, ``2*\\theta``, ``\\infty``
============================================  ================================================

What may mean two things stays as it is, and is then not read: ``e^-2t``, ``x**ab``, ``2**3**2``.  ``f^(4)(x)`` is a
derivative.  ``x^12`` is what LaTeX makes of it.  Text in ``\\text{}`` and words are left alone; ``xi`` is x times i.
"""

from __future__ import annotations

import re

GREEK = frozenset(
    (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu rho sigma tau upsilon phi chi psi omega "
        "Gamma Delta Theta Lambda Sigma Phi Psi Omega"
    ).split()
)
_COMMANDS = {
    **{name: name for name in ("sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan ln log pi").split()},
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "infinity": "infty",
    "Infinity": "infty",
}
"""Names that are commands wherever they stand."""
_IN_FORMULAS = {**{name: name for name in GREEK}, "inf": "infty", "infty": "infty", "oo": "infty"}
"""Names that are commands unless they stand among words."""
_BRACKETED = {
    "sqrt": (r"\sqrt{", "}"),
    "cbrt": (r"\sqrt[3]{", "}"),
    "abs": ("|", "|"),
    "Abs": ("|", "|"),
    "exp": ("e^{", "}"),
    "floor": (r"\lfloor ", r"\rfloor "),
    "ceil": (r"\lceil ", r"\rceil "),
    "ceiling": (r"\lceil ", r"\rceil "),
    "factorial": ("(", ")!"),
    **{name: (rf"\{name}(", ")") for name in ("gcd", "lcm", "max", "min")},
    "GCD": (r"\gcd(", ")"),
    "HCF": (r"\gcd(", ")"),
    "hcf": (r"\gcd(", ")"),
    "LCM": (r"\lcm(", ")"),
}
"""Names before a bracket, and what stands for the bracket and its end."""
_PAIRS = {
    **dict.fromkeys(("binomial", "binom", "comb", "nCr"), r"\binom{%s}{%s}"),
    "Rational": r"\frac{%s}{%s}",
    **dict.fromkeys(("pow", "Pow"), "((%s)^{%s})"),
    "root": r"\sqrt[%.0s%s]{%s}",
    "log": r"\log_{%.0s%s}(%s)",
}
"""Names before two arguments, and what stands for them; ``root(x,3)`` and ``log(8,2)`` turn them round."""
_UNITS = frozenset(["min"])
"""``5 min (about)`` is five minutes."""
_JOINTS = frozenset(["or", "and"])
_SHORT_WORDS = frozenset("is of to in no if at by as it be an on so we".split())

_NAMES = "|".join(sorted({*_COMMANDS, *_IN_FORMULAS, *_BRACKETED}, key=len, reverse=True))
_ANY = re.compile(rf"\*\*|\^ ?[-(]|(?<![a-zA-Z\\])(?:{_NAMES})(?![a-zA-Z])")
_TOKEN = re.compile(
    r"\\(?:text|operatorname|begin|end|math[a-z]+) ?\{[^{}]*\}?|\\[a-zA-Z]+|\\."
    r"|(?P<word>[a-zA-Z]+)|(?P<power> ?\*\* ?| ?\^ ?(?=[-(]))|[0-9]+(?:\.[0-9]+)?|.",
    re.DOTALL,
)
_PROSE = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]{2,}")
_MARKED = re.compile(r"\\(?:text|operatorname|begin|end|math[a-z]+) ?\{[^{}]*\}?")
_NAMED_ALONE = re.compile(rf"\\text ?\{{ ?({'|'.join(sorted(GREEK))}) ?\}}")
_INFINITE_TEXT = re.compile(
    r"\\text ?\{ ?(?:(positive|negative|plus|minus|[-+])? ?(?:infinity|inf)) ?\}", re.IGNORECASE
)
_SEVERAL = re.compile(r"\\(?:text|operatorname) ?\{(gcd|hcf|lcm|max|min) ?\} ?(?=\(|\[|\\\{)", re.IGNORECASE)
_ROOT_OF_NUMBER = re.compile(r" ?([0-9]+(?:\.[0-9]+)?)(?![a-zA-Z0-9.(])| ?(?=\{)")
_LOG_BASE = re.compile(r"([0-9]+)(?= ?\()")
_DIGITS = re.compile(r"[0-9]+")
_OPENING = re.compile(r" ?\(")
_PAIR = re.compile(
    rf"(?<![a-zA-Z\\])({'|'.join(_PAIRS)}) ?\(([^(),]{{1,60}}),(?![0-9]{{3}}(?![0-9]))([^(),]{{1,60}})\)"
)
_EXPONENT = re.compile(r"(-? ?)(?:([0-9]+(?:\.[0-9]+)?)|([a-zA-Z]+|\\[a-zA-Z]+))")
_GOES_ON = re.compile(r" ?(?:\^|\*\*|!|_|\()|[a-zA-Z0-9\\{]")
_ORDER = re.compile(r"\((?:[0-9]+|[nk])\)")


def respelled(text: str) -> str:
    """The text with plain notation as LaTeX.  Linear in its length."""
    if "\\text" in text or "\\operatorname" in text:
        text = _INFINITE_TEXT.sub(_infinite, text)
        text = _SEVERAL.sub(lambda m: "\\" + m[1].lower().replace("hcf", "gcd"), text)
        if match := _NAMED_ALONE.fullmatch(text):
            return "\\" + match[1] + " "
    if "," in text:
        text = _PAIR.sub(_pair, text)
    return _Scan(text).result() if _ANY.search(text) else text


class _Scan:
    """One pass over a text: tokens go out as they come in, or as LaTeX; brackets remember what closes them."""

    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self.out: list[str] = []
        self.closers: list[str | None] = []
        """What stands for the end of each open bracket, None where it stays as it is."""
        self.names = _COMMANDS if _has_words(text) else {**_COMMANDS, **_IN_FORMULAS}

    def result(self) -> str:
        while self.place < len(self.text):
            match = _TOKEN.match(self.text, self.place)
            assert match is not None  # one of its alternatives is any character
            token = match.group()
            if match["word"]:
                self._word(token, match.end())
            elif match["power"]:
                self._power(match.end(), "*" in token)
            else:
                self.place = match.end()
                self._bracket(token)
        return self.text if any(closer for closer in self.closers) else "".join(self.out)

    def _bracket(self, token: str) -> None:
        if token in ("(", "["):
            self.closers.append(None)
        elif token in (")", "]") and self.closers:
            closer = self.closers.pop()
            if closer is not None and token == "]":
                self.closers.append(closer)  # never closed: the text is left alone
            token = closer or token
        self.out.append(token)

    def _open(self, opening: str, closer: str, end: int) -> None:
        self.out.append(opening)
        self.closers.append(closer)
        self.place = end

    def _word(self, word: str, end: int) -> None:
        self.place = end
        bracket = _OPENING.match(self.text, end)
        if word in _BRACKETED and bracket and not (word in _UNITS and bracket[0] != "("):
            self._open(*_BRACKETED[word], bracket.end())
        elif word == "sqrt" and (match := _ROOT_OF_NUMBER.match(self.text, end)):
            self.out.append(rf"\sqrt{{{match[1]}}}" if match[1] else r"\sqrt")
            self.place = match.end()
        elif word == "log" and (match := _LOG_BASE.match(self.text, end)):
            self.out.append(rf"\log_{{{match[1]}}}")
            self.place = match.end()
        elif word in self.names and word in GREEK and (match := _DIGITS.match(self.text, end)):
            self.out.append(rf"\{word}_{{{match[0]}}}")
            self.place = match.end()
        elif word in self.names:
            self.out.append(f"\\{self.names[word]} ")
        else:
            self.out.append(word)

    def _power(self, end: int, stars: bool) -> None:
        """``**``, or ``^`` before a sign or a bracket.  The exponent goes in braces where it is clear what it is."""
        text, self.place = self.text, end
        if text.startswith("{", end):
            self.out.append("^")
            return
        if text.startswith("(", end):
            if not stars and self._is_derivative(end):
                self.out.append("^")
            else:
                self._open("^{", "}", end + 1)
            return
        match = _EXPONENT.match(text, end)
        if match is None:
            if text.startswith("-(", end):
                self._open("^{-(", ")}", end + 2)
            else:
                self.out.append("**" if stars else "^")
            return
        sign, number, name = match[1].strip(), match[2], match[3]
        bracket = _OPENING.match(text, match.end())
        if name in _BRACKETED and bracket:
            opening, closer = _BRACKETED[name]
            self._open(f"^{{{sign}{opening}", closer + "}", bracket.end())
            return
        name = f"\\{self.names[name]}" if name in self.names else name
        clear = number or len(name) == 1 or name[1:] in GREEK or name in ("\\pi", "\\infty")
        following = _GOES_ON.match(text, match.end())
        if clear and (not following or (number and stars and not sign and following.group().isalpha())):
            self.out.append(f"^{{{sign}{number or name}}}")
            self.place = match.end()
        else:
            self.out.append("**" if stars else "^")

    def _is_derivative(self, bracket: int) -> bool:
        """``f^(4)``: of a letter that names functions, or of y with nothing but an order."""
        base = "".join(self.out[-2:]).rstrip("' ")[-1:]
        return base in tuple("fghFGH") or (base == "y" and _ORDER.match(self.text, bracket) is not None)


def _pair(match: re.Match[str]) -> str:
    first, second, written = match[2].strip(), match[3].strip(), _PAIRS[match[1]]
    return written % ((first, second, first) if "%.0s" in written else (first, second))


def _infinite(match: re.Match[str]) -> str:
    return "-\\infty " if (match[1] or "").lower() in ("negative", "minus", "-") else "\\infty "


def _has_words(text: str) -> bool:
    """Whether there is a word that is no name of plain notation: then ``beta`` and ``mu`` are words as well."""
    for word in _PROSE.findall(_MARKED.sub(" ", text)):
        known = word[0] == "\\" or word in _JOINTS or word in _COMMANDS or word in _IN_FORMULAS or word in _BRACKETED
        if not known and (len(word) > 2 or word.lower() in _SHORT_WORDS):
            return True
    return False
