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
cases (but ``Clips``), adverbs in -ly, ``-fold``, ``-illion`` and ``-eenths``.  A noun is listed (:data:`NOUNS`) or a
plural, for ``5 awful`` and ``5 rejected`` are no counts; behind 1 and less it may be a singular.  Adjectives and
participles stand beside a noun: ``4 prime numbers``, ``5 broken toys``.  In plain letters, where ``5 abc`` may be a
product, a noun that is not listed has four letters or more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hapo_lit.verify.kinds.units import NAMES, PLURALS, spelled

NOUNS = frozenset(
    map(
        spelled,
        (
            "aircraft apple bag ball bar bat bed bee bird block boat book bottle bowl box boy bread brick bud bug "
            "building bus cab cake can candle candy cap car card cash cat cattle cent chair change cheese chicken "
            "chocolate choice clip coffee coin combination cookie cost cow crayon cup deck deer desk dime discount "
            "dog doll door drawing egg element evening face fan fee fish flour flower fly food fox fruit fuel game "
            "gas girl guest handshake hat hen homework house human income integer item jar job juice key kid king kit "
            "lap leg letter line log luggage mail map marble marker mat match meeting member mile milk minute money "
            "morning mug nickel number nut offspring orange outcome page paint painting pair pan paper pea pen pencil "
            "penny permutation pet pie piece pig pizza place plant player pod point possibility pot profit pupil "
            "question rain rectangle revenue rice ring root row rug salmon salt sand seat seed serving sheep shrimp "
            "sibling side soda solution soup spacecraft spider spring square staff stamp step sticker stone string "
            "student sugar sweet tax tea team thing ticket tie tile time tip total toy traffic tray tree triangle "
            "trip truck tub turn value van vase vertex water way week wheel win wing wood wool word worker"
        ).split(),
    )
)
"""Common nouns: read in plain letters however short, beside formulas with variables, and if no other word is."""
_KNOWN = NAMES | NOUNS

_HEDGES = (
    "about almost apparently approx approximate approximated approximately approximates around assume assumed "
    "assuming ballpark believe bet ca circa could doubt doubtful estimate estimated estimates guess guessed guesses "
    "guessing hmm hope hypothetical idk imagine ish kinda likely maybe might nearly perhaps please potential "
    "practically presume presumed probable probably quasi rough roughly seem seems should so somehow something "
    "somewhat sorta suggested suppose supposed suspect tentative tentatively think thinking thought uncertain unclear "
    "unconfirmed unsure unverified virtually wait would"
)
_DENIALS = (
    "aren arent cannot cant dare denied deny didnt doesnt don dont except exclude excluded excludes excluding instead "
    "isn isnt keine lack lacking lacks nada nah nay negated nein neither never nicht nil nobody non none nope nor not "
    "nothing nought nowhere null nunca opposite otherwise rather refuse refused unequal unless versus void wasnt "
    "without wont"
)
_JUDGES = (
    "absurd bad bogus cancel canceled cancelled contradiction contradictory corrected correction disagree discard "
    "discarded dismissed disproved disproven dne erroneous error errors exists fail failed fails fake false falsehood "
    "fault faulty flawed holds ignore ignored impossible imprecise inaccurate inadmissible inconsistent incorrect "
    "incorrectly indeterminate invalid joke lie lies lol meaningless misprint misread mistake mistaken mistakes "
    "nonexistent nonsense obsolete omitted oops refuted reject rejected rejects retract retracted revised satisfies "
    "spurious suffices superseded true typo typos unacceptable undefined undetermined unfeasible unknown unproven "
    "unreasonable unsolvable unsolved untrue vanishes whoops withdrawn works wrong wrongly yikes"
)
_COMPARISONS = (
    "above ahead beat beats behind below between beyond bigger biggest bounded cheaper converges deeper differs "
    "diverges down downward downwards earlier equalling equals exactly exceed exceeding exceeds farther faster few "
    "fewer fewest greater greatest heavier higher highest larger largest later least less lesser lighter limit longer "
    "longest lower lowest max maximal maximum minimal minimum more most nearer newer older over short shorter "
    "shortest shy slower smaller smallest stronger taller tallest than tops under unlike up upto upward upwards vs "
    "within younger"
)
_CHANGES = (
    "absolute added adjusted base basis bil billion billions bps complement compounded conjugate couple crore crores "
    "cube cubed cubic debt debts decrease decreased deficit deficits divide divided divides dot double doubled "
    "doubles dozen dozens eighth eighths exp exponent exponential factorial factorials fifth fifths first fold fourth "
    "fourths fraction googol gross half halve halved halves hundred hundreds hundredth hundredths imaginary increase "
    "increased inf infinite infinity inverse inverted lakh lakhs loss losses mil mill million millions millionth "
    "millionths minus mod modulo modulus multiplied multiply myriad nan negative negatives ninth ninths oclock odds "
    "off opposed overline owed owing percentile permille plus power powers ppm primed promille quadruple quadrupled "
    "quarter quartered quarters quintuple quotient radical raised recip reciprocal reciprocals reduced remainder root "
    "rounded scaled score scores seventh sevenths signed sixth sixths sqrt square squared subtract subtracted sum "
    "tens tenth tenths third thirds thousand thousands thousandth thousandths thrice times trillion trillions "
    "trillionth trillionths triple tripled triples truncated twelfth twelfths twentieth twentieths twice"
)
_NUMBER_WORDS = (
    "zero one ones two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundredfold once single"
)
_FUNCTION_WORDS = (
    "actually after afterwards again ago all already also although always and another any are as at be because become "
    "becomes been before beforehand being both but by can check close come comes did do does either enough ever every "
    "exact for from gave get gets give given gives got had has have he hence her here him his how however if implies "
    "into is it its just let lets made make makes many may me mean means much must my near nonetheless note now of "
    "okay only onto or other others ought our out per precise quite regardless remains said same say says see several "
    "shall she since some sometimes still such that the their them then there these they this those though thus till "
    "to too toward towards until upon us verify very via was we were what when whenever where whereas whether which "
    "while who whom whose why will with yes yet you your"
)
_FUNCTIONS = (
    "abs alpha arccos arcsin arctan arg beta ceil chi cos cosh cot csc delta derivative det epsilon eta floor frac "
    "gamma gcd integral iota kappa lambda lcm lg lim ln log mu nu omega omicron phi pi psi rho sigma sign sin sinh "
    "sup tan tanh tau theta upsilon xi zeta"
)
_DATES = (
    "january february march april june july august september october november december jan feb mar apr jun jul aug "
    "sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays "
    "thursdays fridays saturdays sundays mon tue tues wed thu thur thurs fri sat sun noon midnight today tomorrow "
    "yesterday tonight bce"
)


def _forms(verb: str) -> set[str]:
    """A verb as it is written beside a number: ``deny``, ``denies``, ``denied``, ``denying``."""
    stem = verb[:-1] if verb[-1] in "ey" else verb
    third = {"y": stem + "ies", "h": verb + "es", "s": verb + "es"}.get(verb[-1], verb + "s")
    past = stem + "ied" if verb[-1] == "y" else stem + "ed"
    return {verb, third, past, (verb if verb[-1] == "y" else stem) + "ing"}


_VERBS = (
    "allege approach approximate argue assert assume claim conjecture contradict converge deny depend differ "
    "disagree disprove dispute diverge doubt err estimate exceed exclude falsify fluctuate guess guesstimate "
    "hedge hesitate imagine imply indicate insist invalidate miscalculate miscount misjudge mislead misrepresent "
    "negate nullify omit oscillate outdo outnumber outweigh overcount overestimate overshoot overstate predict "
    "presume prove quibble refute reject retract seem shrink speculate suggest surpass suspect tend undercount "
    "underestimate undershoot understate vanish vary verify violate warn"
)
"""In all their forms: they hedge, deny, judge or compare, and in -s they look like plurals."""
_CLAIMS = (
    "adds approximations confirms conjectures contradictions denials falsehoods grows guesstimates hypotheses "
    "inaccuracies inverses lowers minuses misprints myriads negations pluses plusses raises requires rises "
    "speculations suspicions uncertainties"
)
REFUSED = frozenset(
    " ".join(
        (
            _HEDGES,
            _DENIALS,
            _JUDGES,
            _COMPARISONS,
            _CHANGES,
            _NUMBER_WORDS,
            _FUNCTION_WORDS,
            _FUNCTIONS,
            _DATES,
            _CLAIMS,
        )
    ).split()
) | {form for verb in _VERBS.split() for form in _forms(verb)}
"""Words that are no part of a count, in lower case, each form of them: ``roots`` are counted and ``root`` is not."""

ADJECTIVES = frozenset(
    (
        "prime even odd positive real complex rational distinct different possible valid correct right equal "
        "consecutive whole nonzero extra additional big large small great good fine nice high low new old long tall "
        "wide deep thick away apart late early happy sad full empty free hot cold"
    ).split()
)
"""They count beside a noun only: ``5 prime`` is 5', or says that 5 is prime."""
_ALONE = frozenset(["left", "remaining"])
"""Participles that say of a count what the question asks: ``40 left``."""
MEASURES = frozenset(["old", "long", "tall", "wide", "high", "deep", "thick", "away", "apart", "late", "early"])
"""What a length or an age measures: dropped behind a unit, so that ``5 feet tall`` is ``5 ft``."""

_WORD = re.compile(r"[A-Z]?[a-z]{3,}|[A-Z][a-z]{2}|[A-Z]{3,}")
_PLAIN_WORD = re.compile(r"[A-Z]?[a-z]{4,}|[A-Z][a-z]{3}")
_VOWEL = re.compile("[aeiouyAEIOUY]")
_NUMERAL = re.compile(r"[a-z]*(?:fold|illions?|(?:ie|en|and|undred|illion)ths?)")
"""``tenfold``, ``zillions``, ``seventeenths``."""
_SINGULAR = re.compile(r"[a-z]*(?:ss|us|is|[^s])")
_PARTICIPLE = re.compile(r"[a-z]*(?:ed|ing)")
_ADVERB = re.compile(r"[a-z]*ly")
_NOUNS_IN_LY = frozenset(
    (
        "ally anomaly assembly belly bully butterfly daily dolly doily dragonfly elderly family firefly fly friendly "
        "gully holly homily housefly jelly lily lonely lovely monopoly monthly rally reply silly supply ugly weekly "
        "woolly yearly hourly curly"
    ).split()
)
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def counts(word: str) -> bool:
    """Whether a word may stand beside a number and leave it as it is: a noun, an adjective or a participle."""
    lower = word.lower()
    if lower in REFUSED:
        return False
    if spelled(word) in NOUNS or lower in ADJECTIVES:
        return True
    if not _WORD.fullmatch(word) or not _VOWEL.search(word) or lower in _ALPHABET or _NUMERAL.fullmatch(lower):
        return False
    return lower in _NOUNS_IN_LY or not _ADVERB.fullmatch(lower)


def has_noun(words: Sequence[str], one: bool, plain: bool) -> bool:
    """Whether one of the words is a noun or a unit.

    Args:
        one: the value is at most 1, so that the singular of a noun that is not listed may follow.
        plain: the words stand in plain letters, where a short word may be a product of variables.
    """
    return any(_is_noun(word, one, plain) for word in words)


def _is_noun(word: str, one: bool, plain: bool) -> bool:
    lower = word.lower()
    if spelled(word) in _KNOWN or lower in _ALONE:
        return not plain or word[1:].islower()
    if lower in ADJECTIVES or (plain and not _PLAIN_WORD.fullmatch(word)):
        return False
    return lower in PLURALS or not _SINGULAR.fullmatch(lower) or (one and not _PARTICIPLE.fullmatch(lower))
