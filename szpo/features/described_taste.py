"""A line in a person's words, such as "cheerful, no lists": which entries it names.

The line raises the prior of what it names (`szpo.optim.named_features.prior_of`), nothing else:
which of more and less of it is liked, and whether it matters, the votes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

from szpo.features.dictionary import BY_NAME
from szpo.features.reading import words

_MEANT: Final = """
sentiment positive-words negative-words = cheerful happy upbeat positive negative optimistic
 pessimistic joyful sunny bright sad gloomy dark bitter pleasant warm kind nice tone mood
sentiment feeling politeness = friendly caring gentle heartfelt empathetic
length characters sentences = long short brief concise wordy verbose terse lengthy detailed
 to_the_point length size
sentence-length first-sentence = long_sentence short_sentence
bullets lines = list bullet itemised
bullets lines headings paragraphs = structured layout formatted markdown
headings = heading title
bold = bold italic emphasis emphasised
paragraphs = paragraph
code = code link url
commas comma = comma
questions asks-last = question ask asking
exclamations = exclamation exclamation_mark excited exciting enthusiastic lively energetic
emoji = emoji emoticon smiley
shouting = shouting capitals uppercase caps
dashes = dash
quotes speech = quote quotation dialogue conversation
numbers number-words = number figure digit
i starts-i = i myself first_person personal
you = you reader second_person
we = we us our
people he-she = people person character
past ed-words = past past_tense
present = present present_tense
future = future
readability syllables word-length long-words = simple easy plain readable clear complicated
 difficult hard big_word long_word short_word jargon
abstract bookish = formal bookish literary academic abstract sophisticated
concreteness abstract senses = concrete vivid sensory descriptive
slang contractions = informal casual colloquial relaxed chatty slang
contractions = contraction
hedges vague = hedge hedging cautious careful vague unsure tentative confident certain
absolutes = absolute always never
intensifiers adverbs = intensifier adverb dramatic
politeness greetings = polite courteous respectful rude greeting
helper-talk = assistant robotic disclaimer
example = example
because then = reason explain explanation explained logical
then = step step_by_step
not = negation
can = possibility
must = duty advice command
repetition same-starts variety = repetition repetitive repeat repeating varied
overlap echo = echo on_topic prompt
story speech past = story tale narrative
nature weather animals = nature outdoors
finished = unfinished finished cut_off complete
capitals = name
colours = colour color colourful colorful
fluency = fluent fluency natural
"""
"""Entries, or coordinates of shipped adapters, that words as people say them mean."""
_IDLE: Final = """
a an and answer answers any as at avoid be bit but could do don't for from give have in is it less
like lot make many me more most much my never no not of on or please prefer quite rather really
reply should so some sort sound sounds style text texts than that the their them they this those
to too use using very want with without words word would write writing
"""
"""Words that name nothing by themselves."""


def read(lines: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which of the entries and coordinates with these ``names`` the lines name, in their order.

    With them lines that say what each word named, and which words named nothing.

    >>> named, told = read(["Cheerful, no lists; zesty"], ["bullets", "commas", "sentiment"])
    >>> named, told[1]
    (('bullets', 'sentiment'), 'say: not understood: "zesty"; szpo taste --list has all')
    """
    meant: dict[str, list[str]] = {}
    lost: list[str] = []
    known = _meanings() | {}
    for name in names:  # a coordinate, such as "positive tone", by each of its words too
        parts = words(name.replace("-", " "))
        for word in {"_".join(parts), *(parts if name not in BY_NAME else ())}:
            known[word] = [*known.get(word, ()), name]
    for line in lines:
        said = words(line.replace("-", " "))
        while said:
            forms = {size: _forms(said[:size]) for size in (3, 2, 1)}
            size = next((n for n, each in forms.items() if known.keys() & each), 1)
            phrase, said = " ".join(said[:size]), said[size:]
            means = {name for form in forms[size] for name in known.get(form, ())}
            if is_idle(phrase):
                continue
            if here := [name for name in names if name in means]:
                meant[phrase] = here
            else:
                lost.append(f'"{phrase}"')
    told, named = [], {name for each in meant.values() for name in each}
    if meant:
        each = "; ".join(f'"{phrase}" is {", ".join(here)}' for phrase, here in meant.items())
        told.append(f"say: {each}; whether votes are about it, and in which sense, they tell")
    if lost or not meant:
        each = ", ".join(dict.fromkeys(lost)) or "all of it"
        told.append(f"say: not understood: {each}; szpo taste --list has all")
    return tuple(name for name in dict.fromkeys(names) if name in named), tuple(told)


def is_idle(word: str) -> bool:
    """The word names nothing by itself."""
    return word in _IDLE.split()


@cache
def _meanings() -> dict[str, list[str]]:
    """Entries by the word that means them, or by the words with ``_`` between them."""
    entries_of: dict[str, list[str]] = {}
    for row in _MEANT.replace("\n ", " ").strip().splitlines():
        entries, _, said = row.partition("=")
        for phrase in said.split():
            entries_of[phrase] = [*entries_of.get(phrase, ()), *entries.split()]
    return entries_of


def _forms(said: Sequence[str]) -> list[str]:
    """A phrase as it may be looked up: as it is, in the singular, without an ending."""
    phrase = "_".join(said)
    endings = {"ies": "y", "ier": "y", "es": "", "s": "", "er": "", "r": "", "ly": ""}
    shorter = (phrase.removesuffix(a) + b for a, b in endings.items() if phrase.endswith(a))
    return [phrase, *shorter]
