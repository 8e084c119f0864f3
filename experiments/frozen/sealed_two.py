"""Six more tastes that a reader of short answers could have, each with a sentence and a scorer.

Every scorer is a pure function of (prompt, answer) whose value grows with the taste.
"""

import re
from collections.abc import Callable

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]”]*(?:\s+|$)|\n+")
_CLAUSE_END = re.compile(r"[,;:]\s|\s[-–—]+\s|—")
_VOWELS = re.compile(r"[aeiouy]+")

_STOP = frozenset(
    """a an the and or but if so than then that this these those there here of in on at to for from
    by with about as into over up out off is am are was were be been being do does did have has
    had i you he she it we they me him her us them my your his its our their what who which when
    where why how some any no not can could will would should may might must just very really
    i'm it's i've i'd i'll you're they're don't that's""".split()
)

_STATES = frozenset(
    """is am are was were be been being it's i'm you're they're that's there's have has had having
    seem seems feel feels become becomes mean means""".split()
)
_DEEDS = frozenset(
    """add ask bake beat bite blow boil bounce break bring brush build burn buy call carry catch
    hum tap chase chat chop clean climb close cook crack crash crawl cross cry cut dance dig dip
    draw drift drink drive drop dry eat explore fall feed fetch fight fill find fix float fly
    fold follow gather get give go grab grow hang hear help hide hike hit hold hug hurry jog
    jump kick knock laugh leap leave lift light listen look make meet melt mix move open pack
    paint pass pick plant play pour pull push put race reach read relax rest ride rise roll run
    rush scrape scream send serve shake share shout sing sip sit slam sleep slice slide slip
    smell smile snap spend spill spin splash spread sprint stand start stay steal step stir stop
    stretch stroll sweep swim swing take talk taste teach tear throw touch travel try turn visit
    wait wake walk wander wash watch wave wear whistle win wipe work wrap write""".split()
)
_PAST_DEEDS = frozenset(
    """ate began bit blew broke brought built burnt bought caught came cut drew drank drove dug fed
    fell flew found fought gave went got grew heard held hid hung kept left lit made met put ran
    rang read rode rose sang sat sent shook slept slid spent spun stood stole swam swept swung
    took taught tore threw told woke wore won wrote""".split()
)

_CONTRAST: dict[str, float] = {
    **dict.fromkeys("but however although though yet despite whereas nevertheless".split(), 1.0),
    **dict.fromkeys("instead still while unless otherwise except even".split(), 0.6),
    **dict.fromkeys("or not without too other sometimes another more less than".split(), 0.25),
}
_BRIGHT = frozenset(
    """good great nice happy love loved lovely enjoy enjoying fun beautiful best better calm
    calming peaceful relaxing relax cozy cosy warm comfortable comforting delicious perfect
    wonderful amazing favourite favorite joy fresh sweet easy exciting excited free helpful
    interesting bright special refreshing safe kind proud laugh smile hope like pleasant rest
    friend friends healthy useful worth soothing strong""".split()
)
_DIM = frozenset(
    """bad sad tired tiring hate hard difficult boring bored lonely alone cold dark grey gray
    gloomy slow dull wet stress stressful stressed worry worried angry afraid fear scared scary
    lost miss missing pain painful hurt sick noisy messy mess ugly wrong worse worst problem
    problems annoying heavy dirty cry rain rainy busy late long expensive dangerous trouble
    struggle quiet bitter empty old never nothing can't don't won't challenge challenging""".split()
)

_REQUESTS = frozenset(
    """add ask bring call choose come consider enjoy find get give go have imagine invite keep let
    let's look make picture put remember sit start take talk tell think try use visit wait walk
    watch listen read grab don't be please""".split()
)
_TOGETHER: dict[str, float] = {
    **dict.fromkeys("let's together yours yourself".split(), 1.0),
    **dict.fromkeys("you your you're you'll you've we us our we're".split(), 0.5),
    **dict.fromkeys("should share join welcome invite imagine hope".split(), 0.5),
    **dict.fromkeys("everyone anyone people friends family someone can".split(), 0.25),
}

_TIMES = frozenset(
    """morning mornings noon afternoon afternoons evening evenings night nights midnight dawn dusk
    sunrise sunset today yesterday tomorrow tonight monday mondays tuesday wednesday thursday
    friday fridays saturday saturdays sunday sundays weekend weekends week weeks spring summer
    autumn winter season january february march april june july august september october
    november december year years hour hours minute minutes o'clock early late before after while
    when until during then once first last breakfast lunch dinner childhood moment day days
    christmas""".split()
)
_PLACES = frozenset(
    """bed bedroom kitchen room house home garden yard porch balcony window windows door table sofa
    couch floor street streets road path corner town city village park beach sea lake river
    forest woods mountain mountains hill field farm shop store market café cafe restaurant
    bakery library school office work church museum cinema station train bus car boat bench
    bridge outside inside indoors outdoors upstairs downstairs country world place sky roof oven
    stove""".split()
)
_PLACING = frozenset(
    """in at on by under near beside behind between across along around above below through into
    next against over inside outside where there""".split()
)


def _words(text: str) -> list[str]:
    """Return the lower-case words of a text, curly apostrophes made straight."""
    return _WORD.findall(text.replace("’", "'").lower())


def _sentence_words(text: str) -> list[list[str]]:
    """Return the words of each sentence, leaving out sentences with none."""
    parts = (_words(part) for part in _SENTENCE_END.split(text))
    return [part for part in parts if part]


def _stems(word: str) -> tuple[str, ...]:
    """Return the forms that a verb may have without -s, -ed or -ing."""
    forms = [word]
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word.removesuffix(ending)
            forms += [stem, stem + "e"]
            if stem[-1:] == stem[-2:-1]:
                forms.append(stem[:-1])
            if stem.endswith("i"):
                forms.append(stem[:-1] + "y")
    return tuple(forms)


def _is_deed(word: str) -> bool:
    """Say whether a word is, or may be, a verb of doing."""
    return word in _PAST_DEEDS or any(form in _DEEDS for form in _stems(word))


def _onset(word: str) -> str:
    """Return the sound that a word starts with, roughly, all vowels being alike."""
    for spelled, sound in (("kn", "n"), ("wr", "r"), ("ph", "f"), ("wh", "w"), ("ce", "s")):
        if word.startswith(spelled):
            return sound
    if word.startswith(("ch", "sh", "th")):
        return word[:2]
    first = word[:1]
    return "k" if first in ("c", "q") else "" if first in "aeiou" else first


def _tail(word: str) -> str:
    """Return the end of a word that a rhyme would have to share, or nothing for a short word."""
    return word[-3:] if len(word) >= 4 else ""


def last_line(prompt: str, answer: str) -> float:
    """Score an ending that is shorter and plainer than what went before."""
    sentences = _sentence_words(answer)
    if not sentences:
        return 0.0
    last = sentences[-1]
    beats = max(1, len(_VOWELS.findall(last[-1])))
    brevity = 6.0 / (6.0 + len(last))
    if len(sentences) > 1:
        before = sum(len(sentence) for sentence in sentences[:-1]) / (len(sentences) - 1)
        drop = (before - len(last)) / (before + len(last))
    else:
        clauses = [words for part in _CLAUSE_END.split(answer) if (words := _words(part))]
        drop = 0.5 * (1.0 - 2.0 * len(clauses[-1]) / len(last)) - 0.2 if clauses else -0.7
    return drop + brevity + 0.25 / beats


def sound_echo(prompt: str, answer: str) -> float:
    """Score neighbouring words that begin or end on the same sound."""
    words = _words(answer)
    places = [(i, word) for i, word in enumerate(words) if word not in _STOP and word.isalpha()]
    if len(places) < 2:
        return 0.0
    echo = 0.0
    for index, (here, word) in enumerate(places):
        for there, other in places[index + 1 : index + 4]:
            gap = there - here
            if gap > 6 or other == word:
                continue
            if _onset(word) and _onset(word) == _onset(other):
                echo += 1.0 / (gap + 1)
            if _tail(word) and _tail(word) == _tail(other):
                echo += 0.7 / (gap + 1)
    return 10.0 * echo / max(len(places), 6)


def deeds(prompt: str, answer: str) -> float:
    """Score verbs of doing against verbs of being."""
    words = _words(answer)
    if not words:
        return 0.0
    done = sum(_is_deed(word) for word in words)
    states = sum(word in _STATES for word in words)
    return 10.0 * (done - 0.6 * states) / max(len(words), 12)


def two_sides(prompt: str, answer: str) -> float:
    """Score turns of thought and a mixture of bright and dim words."""
    words = _words(answer)
    if not words:
        return 0.0
    turns = sum(_CONTRAST.get(word, 0.0) for word in words)
    bright = sum(word in _BRIGHT for word in words)
    dim = sum(word in _DIM for word in words)
    balance = 1.2 * min(bright, dim) - 0.25 * abs(bright - dim)
    return 10.0 * (turns + balance) / max(len(words), 15)


def draws_me_in(prompt: str, answer: str) -> float:
    """Score requests, questions and shared words that turn to the reader."""
    sentences = _sentence_words(answer)
    words = [word for sentence in sentences for word in sentence]
    if not words:
        return 0.0
    shared = sum(_TOGETHER.get(word, 0.0) for word in words)
    alone = sum(word in ("i", "i'm", "i've", "my", "me", "myself", "mine") for word in words)
    requests = sum(sentence[0] in _REQUESTS for sentence in sentences)
    questions = min(answer.count("?"), len(sentences))
    size = max(len(words), 15)
    turned = (requests + questions) / len(sentences)
    return 10.0 * (shared - 0.2 * alone) / size + 1.5 * turned


def when_and_where(prompt: str, answer: str) -> float:
    """Score words of time and of place, best when both are there."""
    words = _words(answer)
    if not words:
        return 0.0
    time = sum(word in _TIMES or (word.isdigit() and len(word) <= 4) for word in words)
    place = sum(word in _PLACES for word in words) + 0.3 * sum(word in _PLACING for word in words)
    return 10.0 * (0.5 * (time + place) + min(time, place)) / max(len(words), 15)


TASTES: dict[str, tuple[str, Callable[[str, str], float]]] = {
    "last_line": (
        "I like an answer that closes on a short line, shorter than what went before.",
        last_line,
    ),
    "sound_echo": (
        "I like to hear words near each other that start or end with the same sound.",
        sound_echo,
    ),
    "deeds": (
        "I like it when things get done, and not much simply is what it is.",
        deeds,
    ),
    "two_sides": (
        "I like an answer that sees the good and the bad and turns from one to the other.",
        two_sides,
    ),
    "draws_me_in": (
        "I like it when the writer turns to me, asks me or sends me off to try something.",
        draws_me_in,
    ),
    "when_and_where": (
        "I like to know when it happens and where, so that I can put myself there.",
        when_and_where,
    ),
}
