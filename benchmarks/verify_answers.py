"""Invented answers for ``verify.py``, by this recipe: prompts with eight answers each.

The references have the kinds of MATH-500's, 78.6 % of them plain numbers; :data:`KINDS` has the shares and the
templates, whose parameters are drawn with a fixed seed.  How easy a prompt is, is drawn evenly from 0 to 1, so half of
all answers are right.  Of the right ones 72 % are the reference word for word, the others another spelling of it:
other commands, spaces, expanded, in another order, as a decimal, with a unit.  Wrong ones have other parameters in any
of the spellings, one in ten is of another kind; a prompt has three wrong answers that come again and again.  4 % end
before a box.  The rest end in a box, after a few hundred characters of prose and formulas.  So what is right is known.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from math import gcd
from typing import NamedTuple

GROUP, VERBATIM, NO_BOX, OTHER_KIND, WRONG_ANSWERS = 8, 0.72, 0.04, 0.1, 3

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


class InventedAnswer(NamedTuple):
    """A reference, a response, and whether it is right; ``answer`` is what is in its box."""

    gold: str
    response: str
    right: bool
    answer: str | None


def invented(count: int) -> list[InventedAnswer]:
    """Answers by the recipe above."""
    draw = random.Random(0)
    rows: list[InventedAnswer] = []
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
                rows.append(InventedAnswer(gold, completion(draw, None), False, None))
            else:
                rows.append(InventedAnswer(gold, completion(draw, answer), right, answer))
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
