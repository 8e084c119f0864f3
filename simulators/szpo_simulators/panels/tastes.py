"""Twenty tastes for the test of feature dictionaries: ``taste:few commas`` as a reward.

They were written before the dictionary (`szpo.features`), and no entry was made for them. The
first ten are by somebody who did not write the dictionary, the others by its author. The author
had read all twenty before writing the first entry, so this is not a blind test.

Each is a pure function of the recorded prompt and answer; higher is better. They are meant
for English answers of 24 to 64 tokens. Each class has five:

``named``: any dictionary of style likely has it; ``near``: similar to a likely entry, or the
same name with a different definition; ``parts``: a mixture of two or three nameable features;
``absent``: no list of style features has it.
"""

from __future__ import annotations

import itertools
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from szpo.analysis.features import Feature
from szpo.errors import UsageError

Taste: TypeAlias = Callable[[str, str], float]

SEALED: Final = Path(__file__).parents[3] / "experiments" / "frozen"
"""The folder of a checkout in which further tastes lie (sealed.md); none is installed."""
WORD: Final = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
SENTENCE: Final = re.compile(r"[.!?]+")

EXTRACT: Final = re.compile(r"[A-Za-z'’]*[A-Za-z][A-Za-z'’]*")
UNSURE: Final = re.compile(
    r"(?i)\b(?:might|may|could|would|tends? to|seem(?:s|ed)?|in a way|as if|i suppose|not sure|"
    r"sometimes|usually|often|more or less|at least|about|almost|some|roughly|likely)\b"
)
WARM: Final = frozenset(
    WORD.findall(
        """love loved loving lovely kind kindness gentle gently warm warmth friend friends friendly
    together share shared sharing care caring hope hopeful comfort cosy cozy welcome thank thanks
    grateful sweet smile smiled smiles smiling laugh laughed laughter happy happily happiness joy
    joyful peace peaceful calm safe home embrace hug tender delight delightful cheerful bright
    beautiful wonderful family heart help helped helping"""
    )
)
COLD: Final = frozenset(
    WORD.findall(
        """cold cruel hate hated angry anger alone lonely lost dark darkness dead death die died
    fear fight war afraid enemy hurt pain painful cry cried bitter harsh bad worse worst wrong
    sad sadly empty broken fail failed failure problem problems danger dangerous blood kill killed
    never difficult hard ugly shame guilty"""
    )
)
SMALL: Final = frozenset(
    WORD.findall(
        """little small tiny bit drop spoon cup bowl plate pocket button thread needle key coin
    candle lamp window door shelf drawer chair table blanket pillow crumb seed leaf petal
    finger fingers hand hands whisper kitchen corner nest mouse bee ant snail kitten baby toy box
    letter note pen paper page stone shell lid jar feather
    pebble"""
    )
)
LARGE: Final = frozenset(
    WORD.findall(
        """world global universe society humanity history future nation nations government power
    powerful economy industry technology system systems global international planet earth ocean
    mountains empire army million millions billion huge vast great greatest large enormous
    important importance significant impact era century culture development success progress
    everyone everything always forever"""
    )
)
NO_ADVERBS: Final = frozenset(
    WORD.findall(
        "family only early lovely lonely friendly daily holy ugly silly reply supply july fly"
    )
)
SLOW: Final = frozenset(
    WORD.findall(
        """slow slowly still stillness wait waited waiting waits linger lingers lingered
    lingering rest rests rested resting quiet quietly drift drifts drifted drifting settle
    settles settled pause paused pauses patient patiently patience sit sits sat sitting lie lay
    lying sleep sleeping asleep stay stays stayed staying gradually eventually silence silent
    idle lazy lull float floating remain remains remained stroll strolled"""
    )
)
FAST: Final = frozenset(
    WORD.findall(
        """fast faster quick quickly quicker sudden suddenly rush rushed rushing rushes run
    runs ran running hurry hurried hurrying race raced racing jump jumped jumps jumping burst
    bursts dash dashed immediately instant instantly instantaneous rapid rapidly swift swiftly
    leap leapt leaped speed sped snap snapped crash crashed soon hasty haste flew fly flies
    flying chase chased grab grabbed"""
    )
)


def words(text: str) -> list[str]:
    """The words of a text in lower case; an apostrophe within a word belongs to the word."""
    return [each.lower() for each in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """The parts of a text between full stops, exclamation and question marks."""
    return [each for each in SENTENCE.split(text) if WORD.search(each)]


def share(text: str, wanted: frozenset[str]) -> float:
    """Share of a text's words that are in ``wanted``."""
    found = words(text)
    return sum(each in wanted for each in found) / max(1, len(found))


def few_commas(prompt: str, answer: str) -> float:
    """Named: as few commas as possible; four or more count the same."""
    return -min(answer.count(","), 4) / 4


def short_sentences(prompt: str, answer: str) -> float:
    """Named: short sentences; minus the mean number of words per sentence, at most 30."""
    parts = sentences(answer)
    return -min(30.0, len(words(answer)) / max(1, len(parts)))


def speaks_as_i(prompt: str, answer: str) -> float:
    """Named: speaks as "I": I, me, my, mine, myself as a share of all words, at most a fifth."""
    own = {"i", "me", "my", "mine", "myself", "i'm", "i've", "i'll", "i'd"}
    found = words(answer)
    said = sum(each.replace("’", "'") in own for each in found)
    return min(0.2, said / max(1, len(found)))


def warm(prompt: str, answer: str) -> float:
    """Near: share of warm words minus share of cold words, from this module's lists."""
    return share(answer, WARM) - share(answer, COLD)


def opens_to_me(prompt: str, answer: str) -> float:
    """Near: the first sentence speaks to the reader (you, your, let's, or a question)."""
    mark = SENTENCE.search(answer)
    first = answer if mark is None else answer[: mark.end()]
    mine = {"you", "your", "yours", "yourself", "you're", "you've", "you'll", "you'd", "let's"}
    said = any(each.replace("’", "'") in mine for each in words(first))
    return float(said or first.rstrip().endswith("?"))


def plain(prompt: str, answer: str) -> float:
    """Parts: short words, short sentences, and no digits."""
    found = words(answer)
    letters = sum(map(len, found)) / max(1, len(found))
    long_sentences = min(30.0, len(found) / max(1, len(sentences(answer)))) / 12
    return -letters - long_sentences - float(bool(re.search(r"[0-9]", answer)))


def storyteller(prompt: str, answer: str) -> float:
    """Parts: tells of somebody (he, she, his, her, him), in the past tense, with direct speech."""
    found = words(answer)
    somebody = float(bool({"he", "she", "his", "her", "him"} & set(found)))
    past = sum(w in {"was", "were", "had", "said"} or w.endswith("ed") for w in found)
    speech = float(bool(re.search('["“”]', answer)))
    return somebody + 4 * past / max(1, len(found)) + speech


def alliteration(prompt: str, answer: str) -> float:
    """Absent: share of pairs of neighbouring words that begin with the same letter."""
    found = words(answer)
    same = sum(a[0] == b[0] for a, b in itertools.pairwise(found))
    return same / max(1, len(found) - 1)


def soft_sounds(prompt: str, answer: str) -> float:
    """Absent: share of the letters l, m, n, r, w, y minus share of k, t, p, g, d, b, x, c."""
    letters = [each for each in answer.lower() if "a" <= each <= "z"]
    soft = sum(each in "lmnrwy" for each in letters)
    hard = sum(each in "ktpgdbxc" for each in letters)
    return (soft - hard) / max(1, len(letters))


def small_things(prompt: str, answer: str) -> float:
    """Absent: share of words for small, near things minus share for large and general ones."""
    return share(answer, SMALL) - share(answer, LARGE)


# ---- ten by the dictionary's author ----


def found_in(text: str) -> list[str]:
    """Runs of letters and apostrophes, as written."""
    return EXTRACT.findall(text)


def few_adverbs(prompt: str, answer: str) -> float:
    """Named: as few adverbs in -ly as possible; three or more count the same."""
    found = [each.lower() for each in found_in(answer) if each.lower().endswith("ly")]
    return -min(3, sum(len(each) > 3 and each not in NO_ADVERBS for each in found)) / 3


def contractions(prompt: str, answer: str) -> float:
    """Named: share of contracted words (it's, don't, we'll); most possessives do not count."""
    found = found_in(answer)
    short = re.compile(r"(?i).+(?:n['’]t|['’](?:m|re|ve|ll|d))|(?:it|that|he|she|what|there)['’]s")
    return sum(short.fullmatch(each) is not None for each in found) / max(1, len(found))


def easy_words(prompt: str, answer: str) -> float:
    """Near: share of words of at most four letters."""
    found = found_in(answer)
    return sum(len(each) <= 4 for each in found) / max(1, len(found))


def clean_sentences(prompt: str, answer: str) -> float:
    """Near: share of sentences without a comma, semicolon or dash."""
    parts = [each for each in re.split(r"[.!?\n]+", answer) if each.strip()]
    return sum(not re.search("[,;—–]| - ", each) for each in parts) / max(1, len(parts))


def careful(prompt: str, answer: str) -> float:
    """Near: number of hedging words of `UNSURE`, at most three."""
    return min(3.0, len(UNSURE.findall(answer)))


def chatty(prompt: str, answer: str) -> float:
    """Parts: a contracted word, "you" or "your", and a question or exclamation mark."""
    short = bool(re.search(r"[a-z]['’][a-z]", answer))
    reader = bool(re.search(r"(?i)\b(?:you|your)\b", answer))
    return short + 1.5 * reader + bool(re.search("[!?]", answer))


def reporter(prompt: str, answer: str) -> float:
    """Parts: names within sentences and digits, but not "I", "my" or "me"."""
    names = len(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", answer))
    figures = bool(re.search("[0-9]", answer))
    return min(names, 3) / 3 + figures - 1.2 * bool(re.search(r"\b(?:I|[Mm]y|[Mm]e)\b", answer))


def tidy(prompt: str, answer: str) -> float:
    """Parts: one paragraph, no brackets or quotation marks, and it ends with a full stop."""
    whole = "\n" not in answer.strip()
    plain_marks = not re.search('[()\\[\\]{}"“”*#]', answer)
    return whole + plain_marks + 0.5 * answer.rstrip().endswith(".")


def open_endings(prompt: str, answer: str) -> float:
    """Absent: share of the words of three letters or more that end in a, i, o, u or y."""
    found = [each for each in found_in(answer) if len(each) > 2]
    return sum(each[-1] in "aiouy" for each in found) / max(1, len(found))


def slow(prompt: str, answer: str) -> float:
    """Absent: share of words for slowness or rest minus share of words for speed."""
    found = [each.lower() for each in found_in(answer)]
    return sum((each in SLOW) - (each in FAST) for each in found) / max(1, len(found))


TASTES: Final[dict[str, tuple[str, Taste]]] = {
    "few commas": ("named", few_commas),
    "short sentences": ("named", short_sentences),
    "speaks as I": ("named", speaks_as_i),
    "few adverbs": ("named", few_adverbs),
    "contractions": ("named", contractions),
    "warm": ("near", warm),
    "opens to me": ("near", opens_to_me),
    "easy words": ("near", easy_words),
    "clean sentences": ("near", clean_sentences),
    "careful": ("near", careful),
    "plain": ("parts", plain),
    "storyteller": ("parts", storyteller),
    "chatty": ("parts", chatty),
    "reporter": ("parts", reporter),
    "tidy": ("parts", tidy),
    "alliteration": ("absent", alliteration),
    "soft sounds": ("absent", soft_sounds),
    "small things": ("absent", small_things),
    "open endings": ("absent", open_endings),
    "slow": ("absent", slow),
}
"""Class and function of each taste by name."""


def reward(argument: str | None) -> Feature:
    """The taste of this name as a reward; the sealed ones of frozen plans have names as well."""
    known: dict[str, Any] = dict(TASTES)
    for file in () if argument in known else sorted(SEALED.glob("sealed_*.py")):
        known |= runpy.run_path(str(file))["TASTES"]
    if argument not in known:
        raise UsageError(f"needs a taste, as in taste:few commas; there are {', '.join(known)}")
    _, taste = known[argument]
    return Feature(f"taste:{argument}", lambda prompt, answer: taste(prompt.text, answer.text))
