"""What the verifier costs: answers a second, the cheap ones alone, hostile ones among them, and math-verify beside it.

    python benchmarks/verify.py                  # 10,000 answers, two workers
    python benchmarks/verify.py --answers 2000

The answers are invented, by this recipe: prompts with eight answers each.  The references have the kinds of MATH-500's,
78.6 % of them plain numbers; :data:`KINDS` has the shares and the templates, whose parameters are drawn with a fixed
seed.  How easy a prompt is, is drawn evenly from 0 to 1, so half of all answers are right.  Of the right ones 72 % are
the reference word for word, the others another spelling of it: other commands, spaces, expanded, in another order, as a
decimal, with a unit.  Wrong ones have other parameters in any of the spellings, one in ten is of another kind; a prompt
has three wrong answers that come again and again.  4 % end before a box.  The rest end in a box, after a few hundred
characters of prose and formulas.  So what is right is known, and every verdict is held against it.

CPU time is that of the parent and its workers together.  Wall times depend on the load, which is printed.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import random
import re
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import NamedTuple

from hapo_lit.verify import Checker, Verdict, answers, latex, parsing
from hapo_lit.verify.algebra.reading import repair_percent_signs
from hapo_lit.verify.guard import refusal
from hapo_lit.verify.kinds import numbers, quantities

GROUP, VERBATIM, NO_BOX, OTHER_KIND, WRONG_ANSWERS = 8, 0.72, 0.04, 0.1, 3
COMPARED, NEIGHBOURS, SECONDS = 600, 990, 10.0
CHEAP = frozenset(["string", "number", "structure", "no_answer", "too_long", "refused"])
"""Reasons of verdicts that no worker had a part in."""

KINDS: dict[str, tuple[float, str]] = {
    "integer": (
        63.0,
        r"""
        «n» == «n».0 == «n»\text{ units} == \text{«n»} == \mathbf{«n»} == «n»\; == +«n» == x = «n» == («n»)
        «n» == «n».00 == «n»\text{ cm} == \displaystyle «n» == \boldsymbol{«n»} == N = «n» == $«n»$
        -«n» == -«n».0 == −«n» == \text{-«n»} == - «n» == x = -«n»
        «a» == «a».0 == \frac{«2*a»}{2} == «a»\,\text{ways} == n = «a» == «a»\text{ square units}
        «a*100» == «a*100»\text{ meters} == «a*100».00 == \text{«a*100» meters} == «a*100».
        «a*b» == «a*b».0 == «a» \times «b» == «a»\cdot«b» == A = «a*b»
        «a»,«n+100:03d» == «a»«n+100:03d» == «a»{,}«n+100:03d» == «a»\,«n+100:03d» == «a»,\!«n+100:03d»
        """,
    ),
    "fraction": (
        11.5,
        r"""
        \frac{«s»}{«t»} == \dfrac{«s»}{«t»} == «s»/«t» == \frac {«s»} {«t»} == \frac{«2*s»}{«2*t»} == \tfrac{«s»}{«t»}
        \frac{«t»}{«s»} == \dfrac{«t»}{«s»} == «t»/«s» == \displaystyle\frac{«t»}{«s»} == P = \frac{«t»}{«s»}
        -\frac{«s»}{«t»} == \frac{-«s»}{«t»} == -\dfrac{«s»}{«t»} == -«s»/«t» == \frac{«s»}{-«t»}
        \frac{«2*n+1»}{2} == «n».5 == «2*n+1»/2 == «n»\frac{1}{2} == \dfrac{«2*n+1»}{2}
        \frac{«2*a+1»}{4} == \dfrac{«2*a+1»}{4} == «(2*a+1)/4» == «2*a+1»/4 == \frac{«4*a+2»}{8}
        \frac1{«t»} == \frac{1}{«t»} == 1/«t» == \dfrac1{«t»} == \dfrac{1}{«t»}
        \frac{1}{«n»} == \dfrac{1}{«n»} == 1/«n» == \frac1{«n»}
        """,
    ),
    "decimal": (
        4.1,
        r"""
        «n».«b:02d» == «n».«b:02d»0 == \$«n».«b:02d» == «n».«b:02d»\text{ dollars} == «n»{.}«b:02d»
        0.«n:04d» == .«n:04d» == 0.«n:04d»0 == \frac{«n»}{10000}
        «a».«b» == «a».«b»0 == \frac{«10*a+b if b<10 else 100*a+b»}{«10 if b<10 else 100»} == «a».«b»\text{ hours}
        """,
    ),
    "radical": (
        5.0,
        r"""
        «a»\sqrt{«p»} == «a» \sqrt{«p»} == \sqrt{«a*a*p»} == «a»\cdot\sqrt{«p»} == «a»\sqrt «p» == «a»√«p»
        \sqrt{«p*q»} == \sqrt{«p»}\sqrt{«q»} == \sqrt{«p»} \cdot \sqrt{«q»} == («p*q»)^{1/2} == \sqrt{«p*q»}\text{ m}
        \frac{«s»\sqrt{«p»}}{«t»} == \dfrac{«s»\sqrt{«p»}}{«t»} == \frac{«s»}{«t»}\sqrt{«p»} == «s»\sqrt{«p»}/«t»
        «a»+«b»\sqrt{«p»} == «b»\sqrt{«p»}+«a» == «a» + «b» \sqrt{«p»} == «a»+\sqrt{«b*b*p»}
        \frac{«s»}{\sqrt{«p»}} == \frac{«s»\sqrt{«p»}}{«p»} == \dfrac{«s»}{\sqrt{«p»}}
        \frac{1+\sqrt{«4*n+3»}}{2} == \frac{1}{2}+\frac{\sqrt{«4*n+3»}}{2} == \dfrac{\sqrt{«4*n+3»}+1}{2}
        «a»-\sqrt{«p»} == -\sqrt{«p»}+«a» == «a» - \sqrt{«p»}
        \sqrt[3]{«p*q»} == («p*q»)^{1/3} == (\sqrt[3]{«p»})(\sqrt[3]{«q»}) == \sqrt[3]{«p*q»}\text{ m}
        «a»\sqrt{«p»}+«b»\sqrt{«q»} == «b»\sqrt{«q»}+«a»\sqrt{«p»} == «a» \sqrt{«p»} + «b» \sqrt{«q»}
        «2*a»\pi == «2*a» \pi == \pi\cdot«2*a» == «2*a»π == «2*a»\pi\text{ cm}^2
        \frac{«s»\pi}{«t»} == \dfrac{«s»\pi}{«t»} == \frac{«s»}{«t»}\pi == «s»\pi/«t» == \frac{«s» \pi}{«t»}
        «n»\pi-«a»\sqrt{«p»} == -«a»\sqrt{«p»}+«n»\pi == «n» \pi - «a» \sqrt{«p»}
        «a»i\sqrt{«p»} == «a»\sqrt{«p»}i == i«a»\sqrt{«p»} == \sqrt{«a*a*p»}\,i
        «a»+«b»i == «b»i+«a» == «a» + «b» i == «a»+i«b»
        «a»-«c»i == -«c»i+«a» == «a» - «c»i == «2*a»/2-«c»i
        «a»^{«n»} == «a»^{«n-1»}\cdot«a» == («a»)^{«n»} == «a» ^ {«n»}
        «a»!\cdot«b» == «b»\cdot«a»! == «b» \times «a»! == «a»! \cdot «b»
        """,
    ),
    "polynomial": (
        5.2,
        r"""
        x^2+«a»x+«b» == «b»+«a»x+x^2 == x^2 + «a»x + «b» == x^{2}+«a» x+«b» == x(x+«a»)+«b»
        (x-«a»)(x+«b») == (x+«b»)(x-«a») == x^2+«b-a»x-«a*b» == (x - «a»)(x + «b»)
        «a»x-«b» == «a»x - «b» == -«b»+«a»x == -(«b»-«a»x) == «a» \cdot x-«b»
        x^3-«a»x^2+«b»x-«c» == x^3 - «a»x^2 + «b»x - «c» == -«c»+«b»x-«a»x^2+x^3 == x^{3}-«a»x^{2}+«b»x-«c»
        «a»(x+«p»)(x-«q») == «a»(x-«q»)(x+«p») == «a»x^2-«a*(q-p)»x-«a*p*q» == «a» (x + «p») (x - «q»)
        \frac{x+«a»}{x-«b»} == \dfrac{x+«a»}{x-«b»} == (x+«a»)/(x-«b») == 1+\frac{«a+b»}{x-«b»}
        y=«a»x+«b» == y = «a»x + «b» == y=«b»+«a»x == «a»x-y+«b»=0 == «a»x+«b»
        y=-\frac{«s»}{«t»}x+«c» == y = -\dfrac{«s»}{«t»} x + «c» == y=«c»-\frac{«s»x}{«t»} == «s»x+«t»y=«c*t»
        (x-«a»)^2+(y+«b»)^2=«n» == (x - «a»)^2 + (y + «b»)^2 = «n» == (y+«b»)^2+(x-«a»)^2=«n» == «n»=(x-«a»)^2+(y+«b»)^2
        «a»x+«b»y-«c»z+«d»=0 == «a»x + «b»y - «c»z + «d» = 0 == «a»x+«b»y+«d»=«c»z == «d»+«a»x+«b»y-«c»z=0
        n^2+«a»n == n(n+«a») == n^2 + «a»n == n^{2}+«a»n == «a»n+n^2
        \frac{n(n+«a»)}{«b»} == \frac{n^2+«a»n}{«b»} == \dfrac{n(n+«a»)}{«b»} == \frac{(n+«a»)n}{«b»}
        a^{«a»}b^{«b»} == b^{«b»}a^{«a»} == a^{«a»} b^{«b»} == a^{«a»} \cdot b^{«b»}
        2^{n+«a»}-«b» == 2^{n + «a»} - «b» == -«b»+2^{n+«a»} == «2**a»\cdot 2^n-«b»
        \frac{«p»}{«q»x^{«a»}} == \frac{«p»x^{-«a»}}{«q»} == \dfrac{«p»}{«q»x^{«a»}} == \frac{«p»}{«q»} x^{-«a»}
        «a»\sqrt{x}-«b» == -«b»+«a»\sqrt{x} == «a» \sqrt{x} - «b» == «a»x^{1/2}-«b»
        «a»x^2y-«b»xy^2 == xy(«a»x-«b»y) == -«b»xy^2+«a»x^2y == «a» x^2 y - «b» x y^2
        """,
    ),
    "interval": (
        2.0,
        r"""
        [-«a»,«b»] == [-«a», «b»] == \left[-«a»,«b»\right] == -«a»\le x\le «b» == x \in [-«a», «b»]
        (-\infty,«a»)\cup(«b»,\infty) == (-\infty, «a») \cup («b», \infty) == (-\infty,«a»)\cup(«b»,+\infty)
        («a»,\infty) == («a», \infty) == x > «a» == \left(«a», \infty\right) == («a», +\infty)
        \left(-\frac{«s»}{«t»},«c»\right] == (-\frac{«s»}{«t»}, «c»] == (-«s»/«t»,«c»] == -\dfrac{«s»}{«t»}<x\le«c»
        [0,«a»)\cup(«a»,«b») == [0, «a») \cup («a», «b») == [0,«a») ∪ («a»,«b»)
        (-\sqrt{«p»},\sqrt{«p»}) == \left(-\sqrt{«p»}, \sqrt{«p»}\right) == -\sqrt{«p»} < x < \sqrt{«p»}
        x\ge«a» == x \geq «a» == [«a»,\infty) == «a»\le x
        -«a»<x<«b» == (-«a», «b») == -«a» < x < «b» == x\in(-«a»,«b»)
        """,
    ),
    "tuple": (
        3.0,
        r"""
        («a»,«b») == («a», «b») == \left(«a»,«b»\right) == («a», «b».0) == (x,y)=(«a»,«b»)
        («a»,-«b»,«c») == («a», -«b», «c») == \left( «a», -«b», «c» \right) == («a»,-«b»,\frac{«2*c»}{2})
        \left(\frac{«s»}{«t»},«b»\right) == (\frac{«s»}{«t»}, «b») == («s»/«t»,«b») == (\dfrac{«s»}{«t»}, «b»)
        \left(«a»,\frac{\pi}{«b»}\right) == («a», \frac{\pi}{«b»}) == («a»,\pi/«b») == («a», \dfrac{\pi}{«b»})
        («a»\sqrt{«p»},\frac{«s»\pi}{«t»}) == («a»\sqrt{«p»}, \dfrac{«s»\pi}{«t»}) == (\sqrt{«a*a*p»},«s»\pi/«t»)
        («a»,«b»,«c»,«d») == («a», «b», «c», «d») == \left(«a»,«b»,«c»,«d»\right)
        \left(-\frac{«s»}{«t»},\frac{1}{«c»}\right) == (-\frac{«s»}{«t»}, \frac{1}{«c»}) == (\frac{-«s»}{«t»}, 1/«c»)
        """,
    ),
    "list": (
        1.8,
        r"""
        «a»,«b» == «a», «b» == «b», «a» == «a» \text{ and } «b» == \{«a», «b»\} == x = «a», «b»
        «a»,«b»,«c» == «c», «b», «a» == «a», «b», «c» == «b»,«a»,«c» == «a», «b» \text{ and } «c»
        1\pm\sqrt{«n»} == 1+\sqrt{«n»},1-\sqrt{«n»} == 1 - \sqrt{«n»}, 1 + \sqrt{«n»} == 1 \pm \sqrt{«n»}
        \{«a»,«b»,«c»,«d»\} == \{«d», «c», «b», «a»\} == \left\{«a», «b», «c», «d»\right\}
        -\frac{«s»}{«t»},«a» == «a», -\frac{«s»}{«t»} == -\dfrac{«s»}{«t»}, «a» == «a»,-«s»/«t»
        «a»+«b»i,«a»-«b»i == «a»-«b»i, «a»+«b»i == «a» \pm «b»i == «b»i+«a», «a»-«b»i
        -«a»,\sqrt{«p»},-\sqrt{«p»} == -«a», \pm\sqrt{«p»} == \sqrt{«p»}, -\sqrt{«p»}, -«a»
        """,
    ),
    "trigonometric": (
        0.8,
        r"""
        \sin\frac{\pi}{«n»} == \sin(\pi/«n») == \sin \frac{\pi}{«n»} == \sin\left(\dfrac{\pi}{«n»}\right)
        «a»\cos «n»^\circ == «a» \cos(«n»^\circ) == «a»\cos «n»^{\circ} == «a»\cos«n»°
        \arctan\frac{«s»}{«t»} == \tan^{-1}\frac{«s»}{«t»} == \arctan(«s»/«t») == \arctan\left(\frac{«s»}{«t»}\right)
        \frac{\pi}{4}+\ln «n» == \ln «n»+\frac{\pi}{4} == \frac{\pi}{4} + \ln(«n») == \dfrac{\pi}{4}+\ln{«n»}
        «a»\sin x+«b»\cos x == «b»\cos x+«a»\sin x == «a» \sin(x) + «b» \cos(x)
        \log_{«p»}«q» == \log_«p» «q» == \frac{\ln «q»}{\ln «p»} == \log_{«p»}(«q»)
        """,
    ),
    "text": (
        2.0,
        r"""
        \text{«word»} == «word» == \text{ «word» } == \textbf{«word»} == \mathrm{«word»} == \text{«word.capitalize()»}
        \text{«word»} == «word.capitalize()» == \textit{«word»} == \mbox{«word»}
        \text{(«letter»)} == «letter» == \text{«letter»} == («letter») == \textbf{(«letter»)}
        «n»_{«a+10»} == «n» _ {«a+10»} == («n»)_{«a+10»} == «n»_{(«a+10»)}
        """,
    ),
    "matrix": (
        0.6,
        r"""
        \begin{pmatrix}«a»\\«b»\end{pmatrix} == \begin{bmatrix} «a» \\ «b» \end{bmatrix} == («a», «b»)
        \begin{pmatrix}«a»&-«b»\\«c»&«d»\end{pmatrix} == \begin{bmatrix} «a» & -«b» \\ «c» & «d» \end{bmatrix}
        \begin{pmatrix}\frac{«s»}{«t»}\\-«c»\end{pmatrix} == \begin{pmatrix} «s»/«t» \\ -«c» \end{pmatrix}
        \begin{pmatrix}\sqrt{«p»}/2&-1\\1&«a»\end{pmatrix} == \begin{bmatrix}\frac{\sqrt{«p»}}{2}&-1\\1&«a»\end{bmatrix}
        """,
    ),
    "percent": (0.4, r"«n»\% == «n»% == «n» \% == «n» == «n»\text{ percent}"),
    "degrees": (
        0.6,
        r"""
        «n»^\circ == «n»^{\circ} == «n»° == «n» == «n»\text{ degrees} == «n» ^\circ
        «n».5^\circ == «n».5^{\circ} == «n».5 == «n».5\text{ degrees}
        """,
    ),
}
"""Share in per cent and templates, one a line: the reference, then other spellings, with ``«…»`` for a parameter."""

WORDS = "even odd circle ellipse parabola hyperbola yes no monday friday evelyn navin briana carla impossible none"
OPENINGS = (
    "We start from the condition that is given and write $f(n) = «n» - «a»n$ for what remains.",
    r"Let $k$ be the number of ways; by symmetry it is enough to count those with $k \le «b»$.",
    r"Recall that $\binom{«d»}{2} = «d*(d-1)//2»$, which bounds the number of pairs from above.",
    "First I look at the small cases: for $n = «a»$ there is nothing to do, and for $n = «b»$ two terms cancel.",
)
MIDDLES = (
    r"Expanding gives $x^2 - «a+b»x + «a*b» = 0$, so that $(x - «a»)(x - «b») = 0$.",
    r"Therefore \[ \frac{«n»}{«t»} + \frac{«s»}{«t»} = \frac{«n+s»}{«t»}. \]",
    "Substituting «a» for the smaller and «c» for the larger one leaves an equation in one unknown, {as above}.",
    r"By the theorem of Pythagoras the third side is $\sqrt{«a*a+b*b»}$, and the area follows from it.",
    "Wait, the second case needs a check as well: if both were even, their sum would be even too, which it is not.",
    r"The terms with index above «d» vanish, so only $\sum_{i=1}^{«d»} i = «d*(d+1)//2»$ is left to be found.",
)
ENDINGS = (
    r"Therefore, the answer is $\boxed{@}$.",
    r"So the final answer is \[ \boxed{@} \]",
    "**Final Answer**\n\\[\n\\boxed{@}\n\\]",
    r"Hence $\boxed{@}$",
    r"Thus we get \(\boxed{@}\).",
)

GOLD = r"\frac{1+\sqrt{5}}{2}"
HOSTILE = [
    rf"\sum_{{a=1}}^{{{99 - row}}}\sqrt{{\sum_{{b=1}}^{{99}}\sqrt{{\sum_{{c=1}}^{{99}}\sqrt{{a+b+c}}}}}}"
    for row in range(10)
]
"""They pass the guard and keep a worker busy for minutes."""


class Row(NamedTuple):
    """A reference, a response, and whether it is right; ``answer`` is what is in its box."""

    gold: str
    response: str
    right: bool
    answer: str | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows = invented(options.answers)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    each, verdicts = whole(rows, options.workers)
    cheap([row for row, verdict in zip(rows, verdicts, strict=True) if verdict.reason in CHEAP])
    beside(rows, each)
    hostile(rows, options.workers)
    replaced()
    print(f"load {os.getloadavg()[0]:.1f}")


# -- answers -----------------------------------------------------------------------------------------------------------


def invented(count: int) -> list[Row]:
    """Answers by the recipe above."""
    draw = random.Random(0)
    rows: list[Row] = []
    kinds = [(kind, share, templates.strip().splitlines()) for kind, (share, templates) in KINDS.items()]
    shares = [share for _, share, _ in kinds]

    def template() -> list[str]:
        return draw.choice(draw.choices(kinds, shares)[0][2]).strip().split(" == ")

    for _ in range(-(-count // GROUP)):
        spellings = template()
        gold, *others = filled(spellings, parameters(draw))
        wrong: list[str] = []
        while len(wrong) < WRONG_ANSWERS:
            other = filled(template() if draw.random() < OTHER_KIND else spellings, parameters(draw))
            if other[0] != gold:
                wrong.append(other[0] if draw.random() < VERBATIM else draw.choice(other))
        ease = draw.random()
        for _ in range(GROUP):
            right = draw.random() < ease
            answer = draw.choice(wrong) if not right else gold if draw.random() < VERBATIM else draw.choice(others)
            if draw.random() < NO_BOX:
                rows.append(Row(gold, completion(draw, None), False, None))
            else:
                rows.append(Row(gold, completion(draw, answer), right, answer))
    return rows[:count]


def parameters(draw: random.Random) -> dict[str, object]:
    """``a < b < c < d`` are small, ``p < q`` primes, ``s < t`` have no common factor, ``n`` may be large."""
    small, primes = sorted(draw.sample(range(2, 13), 4)), sorted(draw.sample((2, 3, 5, 7, 11, 13), 2))
    fraction = draw.choice([(s, t) for t in range(3, 20) for s in range(2, t) if gcd(s, t) == 1])
    numbers = zip("abcdpqstn", (*small, *primes, *fraction, draw.randint(13, 899)), strict=True)
    return {**dict(numbers), "word": draw.choice(WORDS.split()), "letter": draw.choice("ABCDE")}


def filled(templates: Sequence[str], names: dict[str, object]) -> list[str]:
    """Templates with numbers in the place of their parameters."""

    def value(match: re.Match[str]) -> str:
        expression, _, form = match[1].partition(":")
        return format(eval(expression, {}, names), form)

    return [re.sub("«([^«»]*)»", value, template) for template in templates]


def completion(draw: random.Random, answer: str | None) -> str:
    """A response that ends in a box, or in the middle of the work."""
    sentences = [draw.choice(OPENINGS), *draw.sample(MIDDLES, draw.randint(2, 5))]
    text = " ".join(filled(sentences, parameters(draw)))
    if answer is None:
        return text[: -draw.randint(5, 30)]
    return text + "\n\n" + draw.choice(ENDINGS).replace("@", answer)


# -- measurements ------------------------------------------------------------------------------------------------------


def whole(rows: Sequence[Row], workers: int) -> tuple[float, list[Verdict]]:
    """All answers in one call.  CPU seconds of an answer, and the verdicts."""
    golds, responses = [row.gold for row in rows], [row.response for row in rows]
    distinct = len({(row.gold, row.answer) for row in rows})
    length = statistics.mean(map(len, responses))
    checker = Checker(workers=workers)
    wall = clock(lambda: checker([GOLD], [r"\boxed{\frac{\sqrt{5}+1}{2}}"]))
    print(f"first call, which starts {workers} workers: {wall:.2f} s")
    forget()
    parent, below, started = time.process_time(), descendants(), time.perf_counter()
    verdicts = checker(golds, responses)
    wall, parent, below = time.perf_counter() - started, time.process_time() - parent, descendants() - below
    checker.close()
    count = len(rows)
    print(f"{count:,} answers of {length:.0f} characters, {distinct / count:.0%} distinct pairs, {workers} workers:")
    print(
        f"  {count / wall:,.0f} a second (at least 1,500): {wall:.2f} s, {(parent + below) / wall:.0%} of a core busy"
    )
    print(f"  parent {1e6 * parent / count:.0f} CPU µs an answer, {parent:.2f} s together")
    asked = len({(row.gold, v.extracted) for row, v in zip(rows, verdicts, strict=True) if v.reason not in CHEAP})
    print(f"  workers {1e6 * below / count:.0f} CPU µs an answer, {below:.2f} s together, ", end="")
    print(f"{1e3 * below / max(asked, 1):.1f} ms for each of {asked:,} pairs they were asked")
    reasons = Counter(verdict.reason for verdict in verdicts)
    print("  " + ", ".join(f"{reason} {number / count:.1%}" for reason, number in reasons.most_common()))
    wrong = [(row, v) for row, v in zip(rows, verdicts, strict=True) if row.right != v.correct]
    print(f"  {count - len(wrong):,} verdicts as the data was made, {len(wrong)} not")
    for row, verdict in wrong[:10]:
        print(f"    {row.gold} | {row.answer} | {verdict.reason}: {verdict.correct}")
    return (parent + below) / count, verdicts


def cheap(rows: Sequence[Row]) -> None:
    """Those answers alone that no worker saw, by a new checker and by one that has read them before."""
    golds, responses = [row.gold for row in rows], [row.response for row in rows]
    times: dict[str, list[list[float]]] = {"cold": [], "warm": []}
    for _ in range(5):
        checker = Checker()
        forget()
        for name in times:
            started = time.process_time()
            verdicts = checker(golds, responses)
            mean = (time.process_time() - started) / len(rows)
            assert all(verdict.reason in CHEAP for verdict in verdicts)
            times[name].append([1e6 * statistics.median(verdict.seconds for verdict in verdicts), 1e6 * mean])
    print(f"{len(rows):,} answers decided without a worker, found and judged (at most 15 µs):")
    for name, runs in times.items():
        middle, mean = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"  caches {name}: median {middle:.1f} µs, mean {mean:.1f} CPU µs")


def beside(rows: Sequence[Row], each: float) -> None:
    """math-verify on a sample, in this process: it is told what is in the box, and has no limit of time."""
    from math_verify import LatexExtractionConfig, parse, verify

    repair_percent_signs()  # of latex2sympy2_extended, which math-verify uses
    sample = random.Random(1).sample([row for row in rows if row.answer is not None], min(COMPARED, len(rows) // 2))
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of what is done on purpose
    found = [LatexExtractionConfig()]

    def judged(row: Row) -> bool:
        gold, answer = (
            parse(rf"\boxed{{{text}}}", found, parsing_timeout=None) for text in (row.gold, row.answer or "")
        )
        return bool(verify(gold, answer, timeout_seconds=None))

    for row in sample[:10]:
        judged(row)
    started = time.process_time()
    agreed = sum(judged(row) == row.right for row in sample)
    theirs = (time.process_time() - started) / len(sample)
    print(f"math-verify on {len(sample)} of them: {1e3 * theirs:.2f} CPU ms an answer, ", end="")
    print(f"{theirs / each:.1f} times ours ({1e3 * each:.2f} CPU ms); {agreed / len(sample):.1%} as the data was made")


def hostile(rows: Sequence[Row], workers: int) -> None:
    """Answers that take a worker for minutes, spread over a step of others."""
    assert not any(refusal(latex.normalise(text)) for text in HOSTILE)
    step = list(rows[:NEIGHBOURS])
    for place, text in enumerate(HOSTILE):
        step.insert(place * len(step) // len(HOSTILE), Row(GOLD, rf"So it is $\boxed{{{text}}}$.", False, text))
    checker = Checker(workers=workers, seconds=SECONDS)
    alone = checker([row.gold for row in rows[:NEIGHBOURS]], [row.response for row in rows[:NEIGHBOURS]])
    checker.close()
    checker = Checker(workers=workers, seconds=SECONDS)
    checker([GOLD], [r"\boxed{\frac{\sqrt{5}+1}{2}}"])
    forget()
    started = time.perf_counter()
    verdicts = checker([row.gold for row in step], [row.response for row in step])
    wall, kills = time.perf_counter() - started, checker.kills
    checker.close()
    late = sum(verdict.reason == "timeout" for verdict in verdicts)
    others = [verdict for row, verdict in zip(step, verdicts, strict=True) if row.answer not in HOSTILE]
    same = sum(one.correct == other.correct for one, other in zip(alone, others, strict=True))
    print(f"{len(step):,} answers, {len(HOSTILE)} of them hostile: {wall:.1f} s (at most {SECONDS + 3:.0f}), ", end="")
    print(f"{late} met the limit, {kills} workers killed; {same} of {len(others)} neighbours judged as without them")


def replaced() -> None:
    """A pair whose worker was killed before, against one whose worker waits."""
    checker = Checker()
    texts = [rf"\boxed{{\sqrt{{5}}+{number}}}" for number in range(22)]
    for text in texts[:2]:
        checker([GOLD], [text])
    times: list[tuple[float, float]] = []
    for one, two in zip(texts[2::2], texts[3::2], strict=True):
        usual = clock(lambda one=one: checker([GOLD], [one]))
        os.kill(max(children()), signal.SIGKILL)
        times.append((usual, clock(lambda two=two: checker([GOLD], [two]))))
    usual, after = (statistics.median(column) for column in zip(*times, strict=True))
    assert checker.kills == len(times)
    checker.close()
    print(f"a pair: {1e3 * usual:.1f} ms; with a killed worker to replace {1e3 * after:.1f} ms")


def forget() -> None:
    """Empty the caches that all checkers share."""
    for part in (answers, latex, numbers, parsing, quantities):
        for function in vars(part).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def clock(work: object) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def descendants() -> float:
    """CPU seconds of the processes below this one, living or waited for by another of them."""
    return sum(children().values())


def children() -> dict[int, float]:
    """CPU seconds of each process below this one and of those that it has waited for."""
    fields: dict[int, list[str]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields[int(stat.parent.name)] = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
    below, tick = [os.getpid()], os.sysconf("SC_CLK_TCK")
    for pid in below:
        below += [child for child, values in fields.items() if int(values[1]) == pid]
    return {pid: sum(map(int, fields[pid][11:15])) / tick for pid in below[1:]}


if __name__ == "__main__":
    main()
