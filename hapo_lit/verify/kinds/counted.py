"""A number with the thing it counts: ``72 clips``, ``40 tickets left``, ``5 cups of sugar``.

The question names what is counted, so the noun, with an adjective or a participle beside it, is dropped as a unit is.
There is no list of all nouns: a word that stands in none of the lists below is one, unless its form says otherwise.
The lists hold the words that make ``5 WORD`` another answer than 5, and each says why:

- hedges (``5 maybe``) and denials (``not 5``) take the answer back, judges (``5 is wrong``) talk about it;
- comparisons (``5 more``, ``at least 5``) make a bound or a difference of it;
- words that change the value (``5 thousand``, ``5 doubled``, ``5 tenths``) and number words (``5 hundred``, ``5 out of
  six``) make another number of it;
- function words (``5 or``, ``5 if``) begin a sentence that may say anything, and names of functions a formula;
- months and weekdays make a date of it.

The form refuses: words with other characters than letters, of one or two letters, without a vowel, in letters of both
cases (but ``Clips``), adverbs in -ly, multiples in -fold, and a participle or an adjective of number alone (``5
rejected``, ``5 prime``; ``5 broken toys`` and ``5 prime numbers`` are counts).  In plain letters, where ``5 abc`` may
be a product, a word that is not among :data:`NOUNS` has four letters or more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hapo_lit.verify.kinds.units import NAMES, spelled

NOUNS = frozenset(
    map(
        spelled,
        (
            "apple bag ball bar bat bed bee bird block boat book bottle bowl box boy brick bud bug bus cab cake can "
            "candle candy cap car card cat chair chicken chocolate choice clip coin combination cookie cow crayon cup "
            "desk dog doll door egg element face fan fish flower fox game girl guest hat hen handshake house "
            "human integer item jar job key kid kit lap leg letter line log map marble marker mat match member mile "
            "minute mug nut number orange outcome page pair pan pea pen pencil permutation pet pie piece pig pizza "
            "place player plant pod point possibility pot pupil question rectangle ring root row rug seat side "
            "solution square stamp step sticker stone string student sweet team ticket tie tile time toy tray tree "
            "triangle trip truck tub turn value van vase vertex way wheel win word worker"
        ).split(),
    )
)
"""Common nouns: read in plain letters however short, beside formulas with variables, and if no other word is."""
_KNOWN = NAMES | NOUNS

_HEDGES = (
    "about almost apparently approx approximate approximated approximately around assume assumed assuming ballpark "
    "believe bet ca circa could doubt doubtful estimate estimated estimates guess guessed guesses guessing hope "
    "hypothetical idk imagine kinda likely maybe might nearly perhaps potential practically presume "
    "presumed probable probably quasi rough roughly seem seems should so sorta suggested suppose supposed suspect "
    "tentative tentatively think thought thinking uncertain unclear unconfirmed unsure unverified virtually would ish "
    "please hmm wait something somewhat somehow"
)
_DENIALS = (
    "absent cannot dare denied deny isnt isn arent aren wasnt didnt doesnt dont don cant wont except exclude excluded "
    "excluding excludes instead lack lacks lacking keine nada nah nay negated nein neither never nicht nil nobody non "
    "none nope nor not nothing nought null nunca nowhere opposite otherwise refuse refused rather unequal unless "
    "versus void without"
)
_JUDGES = (
    "absurd bad bogus cancel cancelled canceled contradiction contradictory corrected correction disagree discard "
    "discarded dismissed disproved disproven dne error errors erroneous fail failed fails fake false falsehood fault "
    "faulty flawed holds ignore ignored impossible imprecise inaccurate inadmissible incorrect incorrectly "
    "inconsistent indeterminate invalid joke lie lies lol meaningless misprint misread mistake mistaken mistakes "
    "nonexistent nonsense obsolete omitted oops refuted reject rejected rejects retracted retract revised "
    "satisfies spurious suffices superseded true typo typos unacceptable undefined undetermined unfeasible "
    "unknown unproven unreasonable unsolvable unsolved untrue withdrawn works wrong wrongly"
)
_COMPARISONS = (
    "above ahead beat beats behind below beyond between bigger biggest bounded cheaper deeper earlier exceed "
    "exceeds exceeding farther faster few fewer fewest greater greatest heavier higher highest larger largest later "
    "least less lesser lighter limit longer longest lower lowest max maximal maximum minimal minimum "
    "more most nearer newer older over short shorter shortest shy slower smaller smallest stronger taller tallest "
    "than tops under up upto upwards upward within younger down downwards downward than equals equalling "
    "unlike exactly vs"
)
_CHANGES = (
    "absolute added adjusted base basis bil billion billions bps complement compounded conjugate couple "
    "crore crores cube cubed cubic debt debts decrease decreased deficit deficits divide divided dot double "
    "doubled doubles dozen dozens eighth eighths exp exponent exponential factorial factorials fifth fifths first "
    "fold fourth fourths fraction googol gross half halve halved halves hundred hundreds hundredth hundredths "
    "imaginary increase increased inf infinite infinity inverse inverted lakh lakhs less loss losses mil mill "
    "million millions millionth millionths minus mod modulo modulus multiplied multiply myriad nan negative negatives "
    "ninth ninths odds off opposed overline oclock owed owing percentile permille plus power powers ppm primed "
    "promille quadruple quadrupled quarter quartered quarters quintuple quotient radical raised recip reciprocal "
    "reciprocals reduced remainder root rounded scaled score scores seventh sevenths signed sixth sixths sqrt square "
    "squared subtract subtracted sum tenth tenths tens third thirds thousand thousands thousandth thousandths thrice "
    "times trillion trillions trillionth trillionths triple tripled triples truncated twelfth twelfths twentieth "
    "twentieths twice"
)
_NUMBER_WORDS = (
    "zero one ones two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundredfold once single"
)
_FUNCTION_WORDS = (
    "the this that these those such some any all every both either another other others same what which who whom "
    "whose how why where when whenever while as at by for from into onto out per then thus hence to too toward "
    "towards until till upon of via with and or but yet if because since though although however also again just "
    "still already quite very much many several enough here there now before after ago late early he she they we "
    "you me him her them us my your his our their its it is isnt are was were be been being has have had do does "
    "did can will shall must may ought let lets get gets got make makes made give gives gave given become becomes "
    "say says said means mean implies remains come comes where whereas only whether not nor ever let note see "
    "verify check actually okay yes close near exact "
    "precise"
)
_FUNCTIONS = (
    "log sin cos tan cot csc sinh cosh tanh arcsin arccos arctan ln lg exp abs gcd lcm det arg floor ceil sign frac "
    "sqrt pi phi psi chi rho tau eta alpha beta gamma delta epsilon zeta theta iota kappa lambda omega sigma mu nu xi "
    "upsilon omicron lim sup integral derivative"
)
_DATES = (
    "january february march april may june july august september october november december jan feb mar apr jun jul "
    "aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays "
    "thursdays fridays saturdays sundays mon tue tues wed thu thur thurs fri sat sun noon midnight today tomorrow "
    "yesterday tonight bce"
)
REFUSED = frozenset(
    " ".join(
        (_HEDGES, _DENIALS, _JUDGES, _COMPARISONS, _CHANGES, _NUMBER_WORDS, _FUNCTION_WORDS, _FUNCTIONS, _DATES)
    ).split()
)
"""Words that are no part of a count, in lower case, each form of them: ``roots`` are counted and ``root`` is not."""

ADJECTIVES = frozenset(
    (
        "prime even odd positive real complex rational distinct different possible valid correct right equal "
        "consecutive whole nonzero extra additional big large small great good fine nice high low new old long tall "
        "wide deep thick away apart happy sad full empty free hot cold"
    ).split()
)
"""They count beside a noun only: ``5 prime`` is 5', or says that 5 is prime."""
_ALONE = frozenset(["left", "remaining"])
"""Participles that say of a count what the question asks: ``40 left``."""
MEASURES = frozenset(["old", "long", "tall", "wide", "high", "deep", "thick", "away", "apart"])
"""What a length or an age measures: dropped behind a unit, so that ``5 feet tall`` is ``5 ft``."""

_WORD = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z][a-z]{2}|[A-Z]{3,}")
_PLAIN_WORD = re.compile(r"[A-Z]?[a-z]{4,}|[A-Z][a-z]{3}")
_VOWEL = re.compile("[aeiouyAEIOUY]")
_NOUNS_IN_LY = frozenset(
    (
        "ally anomaly assembly belly bully butterfly daily dolly doily dragonfly elderly family firefly fly friendly "
        "gully holly homily housefly jelly lily lonely lovely monopoly monthly rally reply silly supply ugly weekly "
        "woolly yearly hourly curly"
    ).split()
)
_NOUNS_IN_ED = frozenset("bed seed weed reed shed sled breed steed thread bread head bead need deed".split())
_NOUNS_IN_ING = frozenset(
    "ring king string wing spring thing building painting drawing meeting earring evening morning swing wedding "
    "sibling duckling pudding serving herring crossing dumpling sing sting sling".split()
)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def counts(word: str, plain: bool) -> bool:
    """Whether a word may stand beside a number and leave it as it is.

    Args:
        plain: it stands in plain letters, where a short word may be a product of variables.
    """
    lower = word.lower()
    if lower in REFUSED:
        return False
    if spelled(word) in NOUNS or lower in ADJECTIVES:
        return not plain or word[1:].islower()
    if not (_PLAIN_WORD if plain else _WORD).fullmatch(word) or not _VOWEL.search(word) or lower in _ALPHABET:
        return False
    return not (lower.endswith("ly") and lower not in _NOUNS_IN_LY) and not lower.endswith("fold")


def has_noun(words: Sequence[str]) -> bool:
    """Whether one of the words is a noun or a unit by its form, or all are participles that may stand alone."""
    return any(_is_noun(word.lower()) for word in words)


def _is_noun(word: str) -> bool:
    if spelled(word) in _KNOWN or word in _ALONE:
        return True
    if word in ADJECTIVES:
        return False
    if word.endswith("ed"):
        return word in _NOUNS_IN_ED
    return not word.endswith("ing") or word in _NOUNS_IN_ING
