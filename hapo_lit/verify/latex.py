"""One spelling for what LaTeX and unicode spell in many ways.  Text in, text out; nothing is evaluated."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from hapo_lit.verify import plain

_VULGAR = re.compile("[¼-¾⅐-⅞]")
_ROOT = re.compile(r"√\s*(?:(\d+(?:\.\d+)?|[a-zA-Zπ])|\(([^()]*)\)|(?=\{))")
_GREEK = {
    chr(point): "\\" + unicodedata.name(chr(point)).rsplit(" ", 1)[1].lower().replace("lamda", "lambda") + " "
    for point in range(ord("α"), ord("ω") + 1)
    if "FINAL" not in unicodedata.name(chr(point))
} | {"Δ": r"\Delta ", "Γ": r"\Gamma ", "Ω": r"\Omega ", "Σ": r"\Sigma ", "Φ": r"\Phi ", "Π": r"\Pi ", "ϕ": r"\phi "}
_SYMBOLS = str.maketrans(
    {
        **_GREEK,
        **dict.fromkeys("−–—‐‑‒﹣－", "-"),
        **dict.fromkeys("×·⋅∙∗⨯", r"\cdot "),
        **dict.fromkeys("÷∕⁄", "/"),
        **dict.fromkeys("“”‘’`´\u2032", "'"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " "),
        "\u2061": "",
        "\u2062": r"\cdot ",
        "\u2063": ", ",
        "\u2064": "+",
        "°": r"^\circ ",
        "º": r"^\circ ",
        "∞": r"\infty ",
        "±": r"\pm ",
        "∓": r"\mp ",
        "≤": r"\le ",
        "⩽": r"\le ",
        "≥": r"\ge ",
        "⩾": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "∈": r"\in ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∖": r"\setminus ",
        "∅": r"\emptyset ",
        "ℝ": r"\mathbb{R}",
        "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}",
        "ℚ": r"\mathbb{Q}",
        "ℂ": r"\mathbb{C}",
        "⟨": r"\langle ",
        "⟩": r"\rangle ",
        "∠": r"\angle ",
        "△": r"\triangle ",
        "⌊": r"\lfloor ",
        "⌋": r"\rfloor ",
        "⌈": r"\lceil ",
        "⌉": r"\rceil ",
        "，": ", ",
        "；": ";",
        "、": ", ",
        "…": r"\ldots ",
    }
)

_RENAMED = {
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), "frac"),
    **dict.fromkeys(("dbinom", "tbinom"), "binom"),
    **dict.fromkeys(("leq", "leqslant", "leqq"), "le"),
    **dict.fromkeys(("geq", "geqslant", "geqq"), "ge"),
    **dict.fromkeys(("neq",), "ne"),
    **dict.fromkeys(("times", "ast"), "cdot"),
    **dict.fromkeys(("varnothing",), "emptyset"),
    **dict.fromkeys(("lvert", "rvert", "vert", "mid"), "|"),
    **dict.fromkeys(("lbrace",), "{"),
    **dict.fromkeys(("rbrace",), "}"),
    **dict.fromkeys(("textdegree", "degrees"), "degree"),
    **dict.fromkeys(("approxeq", "simeq"), "approx"),
    **dict.fromkeys(("textbf", "textit", "textrm", "textnormal", "mbox", "mathrm", "mathbf", "mathit", "bm"), "text"),
    **dict.fromkeys(("textsf", "mathsf", "texttt", "boldsymbol", "hbox", "emph", "underline", "ce"), "text"),
    **dict.fromkeys(("sh",), "sinh"),
    **dict.fromkeys(("ch",), "cosh"),
    **{f"var{letter}": letter for letter in ("epsilon", "theta", "phi", "rho", "sigma")},
    **dict.fromkeys(("overrightarrow",), "vec"),
    **dict.fromkeys(("dots", "cdots", "dotsc", "dotsb"), "ldots"),
    **dict.fromkeys(("bigcup",), "cup"),
    **dict.fromkeys(("backslash",), "setminus"),
    **dict.fromkeys(("arcctg",), "arccot"),
    **dict.fromkeys(("arctg",), "arctan"),
    **dict.fromkeys(("tg",), "tan"),
    **dict.fromkeys(("ctg", "cotg"), "cot"),
    "implies": "Rightarrow",
}
_PLAIN = {"lt": "<", "gt": ">", "colon": ":", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "div": "/"}
_SIZING = frozenset(
    (
        "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle "
        "textstyle scriptstyle limits nolimits rm bf it sf tt mathstrut strut nobreak "
        "large Large LARGE huge Huge small footnotesize tiny normalsize"
    ).split()
)
_SPACES = frozenset(["quad", "qquad", "thinspace", "enspace", "space", "medspace", "thickspace", "hfill"])
FUNCTIONS = frozenset(
    ("sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp det gcd lcm max min").split()
)

ROW_END = "\x01"
"""What ends a row of a matrix."""

_ESCAPED = re.compile(r"\\\\(?=[a-zA-Z])")
_BOLD_VECTOR = re.compile(r"\\(?:mathbf|boldsymbol|bm|textbf)\s*\{\s*([ijk])\s*\}")
_ROW_END = re.compile(r"\\\\(?:\s*\[-?[0-9.]+ ?[a-z]{2}\])?")
_GLUED_QUAD = re.compile(r"\\q?quad(?=[a-zA-Z](?![a-zA-Z]))")
_THIN = re.compile(r"(?<=[0-9])\s*(?:,\\!\s*|\\[,! ]|\\thinspace|~)\s*(?=[0-9]{3}(?![0-9]))")
_COMMAND = re.compile(r"\\([a-zA-Z]+)\s*|\\([,;:! ])|~")
_NAMED = {name: name for name in FUNCTIONS} | {
    name: _RENAMED[name] for name in "tg ctg cotg arctg arcctg sh ch".split()
}
"""Functions as ``\\operatorname`` and upright words have them."""
_NOT_IN_TEXT = frozenset(["min", "max", "sec", "lg", "sh", "ch"])
_FUNCTION_TEXT = re.compile(
    rf"\\operatorname\s*\{{\s*({'|'.join(sorted(_NAMED))})\s*\}}"
    rf"|\\text\s*\{{\s*({'|'.join(sorted(_NAMED.keys() - _NOT_IN_TEXT))})\s*\}}"
)
_LETTER_TEXT = re.compile(
    r"\\text\s*\{\s*([ei]|\\[a-z]+)\s*\}"
    r"|(?<![0-9}])(?<![0-9}] )(?<!\}/)(?<!\}/ )(?<!\} /)(?<!\} / )(?<!\}\\cdot )(?<!\} \\cdot )"
    r"\\text\s*\{(?!(?:[cdkm]?m|in|ft|yd|mi)\^)([a-zA-Z][0-9]?|[^{} ]*[+=^_\\][^{} ]*)\}"
)
_DIGIT_TEXT = re.compile(r"\\text\s*\{\s*(-?[0-9][0-9,.]*)\s*\}")
_WHOLE_TEXT = re.compile(r"\A\\text\s*\{\s*([-+]?[0-9][^{}]*|[^{}]*(?:,| and | or )[^{}]*)\}\Z")
_COMBINATIONS = re.compile(
    r"(?<![a-zA-Z\\])([AC])_(?:\{([0-9]{1,3})\}|([0-9]))\^(?:\{([0-9]{1,3})\}|([0-9]))"
    r"|(?:\A|(?<=[-+*/=]))(?:\{ ?\})?[_^](?:\{([0-9]{1,3})\}|([0-9]))C_(?:\{([0-9]{1,3})\}|([0-9]))(?![_^])"
)
"""``C_{10}^3`` and ``{}_{10}C_3``, the number of combinations, and of arrangements, ``A_5^2``."""
_DOUBLED = re.compile(r"(?<!\\)\{\{([^{}]*)(?<!\\)\}\}")
_NEGATIVE = re.compile(
    r"\A(?:\\text ?\{ ?(?:negative|minus) ([0-9.,]+) ?\}\Z"
    r"|(?:\\text ?\{ ?(?:negative|minus) ?\}|(?:negative|minus) ) ?(?=[0-9.]|\\frac|\\sqrt|\\pi))",
    re.IGNORECASE,
)
_UNITED = re.compile(r"(?<=[)\]]) ?(?:U|\\text ?\{ ?(?:U|union) ?\}|union) ?(?=[(\[])")
_CHOOSE = re.compile(r"\{([^{}]*)\\choose ?([^{}]*)\}")
_EMPTY_TEXT = re.compile(r"\\text\s*\{\s*\}")
_PART = re.compile(r"\s*(?:\{|\\sqrt ?\{[^{}]*\}|\\[a-zA-Z]+|[0-9a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_SHORT_MODULUS = re.compile(r"\\pmod\s*([0-9a-zA-Z])")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\]|)\s*([0-9a-zA-Z]|\\(?:pi|alpha|beta|theta|lambda)(?![a-zA-Z]))")
_SHORT_POWER = re.compile(r"([\^_])\s*\{\s*([0-9a-zA-Z])\s*\}(?![0-9a-zA-Z])")
_PLUS_INFINITY = re.compile(r"(?<![0-9a-zA-Z})\]])\+ ?\\infty")
_DOTS = re.compile(r"\.{3,}")
_COMMA = re.compile(r"\{,\}(?![0-9]{3}(?![0-9]))|(?<=(?<![0-9])0)\{,\}")
_BRACED_SIGN = re.compile(r"\{ ?([-:=<>+*/.]) ?\}")
_LETTER_AND_DIGITS = re.compile(
    r"(?<![A-Za-z0-9\\_^.}])(?<![0-9] )(?<!text\{)([A-Za-hj-z])([0-9]+)(?![0-9A-Za-z^!(\\.{_])"
)
"""A letter with an index that is not written as one: ``x2``, but not the product in ``n2^{n-1}``."""
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))|\\degree(?![a-zA-Z])")
_BRACED_PART = re.compile(
    r"(?:\A|(?<=[-+*/|(,=<>])|(?<=\\cdot))\{(-?(?:[0-9.]+|[0-9.]*(?:[a-zA-Z]|\\pi|\\sqrt\{[0-9a-zA-Z]+\})))\}(?![\^_{0-9])"
)
_BLANKS = re.compile(r"\s+")
_LOOSE_COMMAND = re.compile(r"(\\[a-zA-Z]+) (?![a-zA-Z])|(?<!,) (?=\\)")
_TIGHT = re.compile(r" ?([-+*/^_=<>|:(){}\[\]]) ?")


@lru_cache(maxsize=8192)
def normalise(answer: str) -> str:
    """The answer in one spelling: commands renamed, sizing, spacing, dollars and full stop gone, unicode as LaTeX.

    A thin space and ``{,}`` between digits stay as ``{,}``, since they separate thousands and nothing else.
    """
    if not answer.isascii():
        answer = _ascii(answer)
    answer = _BLANKS.sub(" ", answer).strip()
    if "$" in answer or "\\(" in answer or "\\[" in answer:
        answer = _undollared(answer)
    if "\\" in answer or "~" in answer:
        if "\\\\" in answer and "\\begin" not in answer:
            answer = _ESCAPED.sub(r"\\", answer)
        answer = _BOLD_VECTOR.sub(r"\\vec{\1}", answer)
        answer = _ROW_END.sub(ROW_END, answer)
        answer = _THIN.sub("{,}", answer)
        answer = _GLUED_QUAD.sub(" ", answer)
        answer = _COMMAND.sub(_renamed, answer)
        if "\\text" in answer or "\\operatorname" in answer:
            answer = _FUNCTION_TEXT.sub(lambda m: f"\\{_NAMED[m[1] or m[2]]} ", answer).replace(
                "\\operatorname", "\\text"
            )
            answer = _EMPTY_TEXT.sub(" ", answer)
            answer = _DIGIT_TEXT.sub(r"\1", answer)
            if answer.startswith("\\text{") and closing_brace(answer, 6) == len(answer) - 1 and "\\" in answer[6:]:
                answer = answer[6:-1]
            answer = _WHOLE_TEXT.sub(r"\1", answer)
            answer = _LETTER_TEXT.sub(r"\1\2", answer)
        if "\\choose" in answer:
            answer = _CHOOSE.sub(r"\\binom{\1}{\2}", answer)
        answer = answer.removesuffix("\\")
        answer = answer.replace("\\not=", "\\ne ").replace("\\not =", "\\ne ")
        if "\\frac" in answer:
            answer = _fractions(answer)
        if "\\sqrt" in answer:
            answer = _SHORT_ROOT.sub(r"\\sqrt\1{\2}", answer)
        if "\\pmod" in answer:
            answer = _SHORT_MODULUS.sub(r"\\pmod{\1}", answer)
        if "\\circ" in answer or "\\degree" in answer:
            answer = _DEGREE.sub(r"^\\circ ", answer)
    if "..." in answer:
        answer = _DOTS.sub(r"\\ldots ", answer)
    if "{,}" in answer:
        answer = _COMMA.sub(".", answer)
    answer = _PLUS_INFINITY.sub(r"\\infty", plain.respelled(answer))
    answer = _NEGATIVE.sub(lambda m: "-" + (m[1] or ""), answer)
    answer = (
        answer.replace("\\%", "%")
        .replace("==", "=")
        .replace("<=", "\\le ")
        .replace(">=", "\\ge ")
        .replace("!=", "\\ne ")
    )
    if "{" in answer:
        answer = _BRACED_SIGN.sub(r"\1", answer.replace("{ , }", "{,}"))
        answer = _SHORT_POWER.sub(r"\1\2", answer)
    answer = _BLANKS.sub(" ", answer)
    answer = _TIGHT.sub(r"\1", answer)
    if "{" in answer:
        answer = _DOUBLED.sub(r"{\1}", _BRACED_PART.sub(_unbraced, answer))
    if "C" in answer or "A" in answer:
        answer = _COMBINATIONS.sub(_combinations, answer)
    if "," in answer and "U" in answer.upper():
        answer = _UNITED.sub(r"\\cup ", answer)
    answer = _LOOSE_COMMAND.sub(r"\1", answer)
    answer = _LETTER_AND_DIGITS.sub(lambda m: f"{m[1]}_{m[2]}" if len(m[2]) == 1 else f"{m[1]}_{{{m[2]}}}", answer)
    answer = answer.strip()
    return answer[:-1].rstrip() if answer.endswith((".", ",")) else answer


def _unbraced(match: re.Match[str]) -> str:
    """``{3}/{4}`` and ``|{-5}|``: braces around one number or letter, which do nothing."""
    inner, before = match[1], match.string[match.start() - 1 : match.start()]
    if match.end() - match.start() == len(match.string) or (
        before == "/" and not re.fullmatch("-?[0-9.]+|[a-z]", inner)
    ):
        return match[0]
    return f"({inner})" if inner[0] == "-" and before not in "|(,=<>" else inner


def _ascii(text: str) -> str:
    """Unicode's mathematics as LaTeX; invisible characters go, as do differences of width."""
    text = _VULGAR.sub(lambda m: _vulgar(m.group()), text)
    text = _scripts(text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m.group(1) or m.group(2)}}}" if m.group(1) or m.group(2) else r"\sqrt", text)
    text = text.translate(_SYMBOLS)
    text = unicodedata.normalize("NFKC", text)
    text = "".join(c for c in text if c.isascii() or unicodedata.category(c) not in ("Cf", "Cc"))
    text = text.translate(_SYMBOLS)
    return "".join(str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else c for c in text)


def _vulgar(character: str) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom}}}"


def _scripts(text: str) -> str:
    """Raised and lowered characters as powers and indices."""
    pieces: list[str] = []
    kind = ""
    for character in text:
        tag, _, points = unicodedata.decomposition(character).partition(" ")
        now = {"<super>": "^", "<sub>": "_"}.get(tag, "") if character not in "ªº" else ""
        if now != kind:
            pieces += ["}"] * bool(kind) + [now + "{"] * bool(now)
            kind = now
        pieces.append("".join(chr(int(point, 16)) for point in points.split()) if now else character)
    return "".join(pieces) + "}" * bool(kind)


def _fractions(text: str) -> str:
    """``\\frac`` with braces around both parts, which may be a single sign or command; inner fractions first."""
    start = len(text)
    while (start := text.rfind("\\frac", 0, start)) >= 0:
        place = start + 5
        for _ in range(2):
            match = _PART.match(text, place)
            if match is None:
                break
            if match[0].lstrip()[0] == "{":
                end = closing_brace(text, match.end())
                if end is None:
                    break
                text = text[:place] + text[match.end() - 1 :]
                place = end + 1 - (match.end() - 1 - place)
            else:
                part = "{" + match[0].strip() + "}"
                text = text[:place] + part + text[match.end() :]
                place += len(part)
    return text


def closing_brace(text: str, begin: int) -> int | None:
    """Where the brace that was opened just before ``begin`` closes; ``\\{`` and ``\\}`` do not count."""
    depth = 1
    for match in _BRACE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _undollared(text: str) -> str:
    """Without the marks of formulas; a dollar before a number with nothing to close it is money and stays, escaped."""
    text = text.replace("$$", "$")
    if text.replace("\\$", "").count("$") % 2 == 0:
        text = re.sub(r"(?<!\\)\$", " ", text)
    else:
        text = re.sub(r"(?<!\\)\$", r"\\$", text)
    return re.sub(r"(?<!\\)\\[()\[\]]", " ", text)


def _combinations(match: re.Match[str]) -> str:
    """A binomial, if the numbers are in its order: ``C_2^3`` is a power of ``C_2``."""
    count, chosen = (int(number) for number in match.groups()[1:] if number)
    if count < max(chosen, 2):
        return match[0]
    return rf"\binom{{{count}}}{{{chosen}}}" + (rf"\cdot{chosen}!" if match[1] == "A" else "")


def _renamed(match: re.Match[str]) -> str:
    name, space = match.group(1), match.group(2)
    if name is None:
        return "" if space == "!" else " "
    if name in _SIZING:
        return ""
    if name in _SPACES:
        return " "
    if name in _PLAIN:
        return _PLAIN[name]
    name = _RENAMED.get(name, name)
    if name in "|":
        return "|"
    return f"\\{name}" if name in "{}" else f"\\{name} "
