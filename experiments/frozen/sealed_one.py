"""Six tastes that a reader of short answers could have, each with a plain sentence and a scorer.

Every scorer is a pure function of (prompt, answer) whose value grows with the taste.
"""

import re
from collections.abc import Callable, Sequence

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+")
_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]”]*(?:\s+|$)|\n+")
_CLAUSE_END = re.compile(r"[,;:]\s|\s[-–—]+\s|—|\b(?:and|but|because|so|while|when)\b")

_STOP = frozenset(
    """a an the and or but if so than then that this these those there here of in on at to for from
    by with about as into over up out off is am are was were be been being do does did doing
    have has had i you he she it we they me him her us them my your his its our their what who
    whom which when where why how tell describe explain say give write talk some any no not can
    could will would should may might must just very really favourite favorite think like please
    i'm it's you're don't let's one thing things something""".split()
)

_THINGS = frozenset(
    """apple arm bag ball basket bath beach bed bench bike bird blanket boat body book boot bottle
    bowl box bread breakfast brick bridge brush bucket bus butter cake candle car card cat chair
    cheese chicken child chip chocolate clock cloth clothes cloud coat coffee cookie cup curtain
    desk dinner dish dog door dough dress dust egg eye face feet finger fire fish floor flower
    foot fork friend fruit game garden garlic glass glove grass gravel hair hand hat head herb
    hill hole honey horse house ice jacket jam jar juice kettle key kid kitchen knee knife lake
    lamp leaf leaves leg lemon letter light lunch map meat milk mirror moon mother mountain
    mouth mud mug newspaper noodle nose oil onion oven page paint pan pancake paper park pasta
    path pen pepper phone picture pie pillow pizza plant plate pocket pot potato puddle radio
    rain rice ring river road rock roof room rope rug salad salt sand sandwich sauce sea sheet
    shelf shirt shoe shop shower sink skin sky snow soap sock sofa soup spoon stair star steak
    stone stove street sugar suitcase sun sweater table tea ticket toast tomato tooth towel toy
    train tree tv umbrella vegetable wall water wheel wind window wine wood wool yard""".split()
)

_SENSES: dict[str, frozenset[str]] = {
    "sight": frozenset(
        """see saw seen look looks looking watch watching watched bright dark light shine shining
        shiny glow glowing pale red blue green yellow orange pink brown black white grey gray
        gold golden silver colour color colours colors colourful colorful shadow shadows sunny
        cloudy foggy misty clear dim sparkle sparkling view beautiful""".split()
    ),
    "sound": frozenset(
        """hear heard hearing listen listening sound sounds loud quiet silent silence noise noisy
        music song songs singing hum humming buzz whisper crack crackle patter drum tap
        tapping ring rattle hiss sizzle sizzling chirp birdsong laugh laughing laughter click
        splash creak thunder""".split()
    ),
    "smell": frozenset(
        """smell smells smelling scent scented fragrant fragrance aroma stink musty perfume smoke
        smoky fresh freshly baking baked roasting roasted brewed brewing breathe air""".split()
    ),
    "taste": frozenset(
        """taste tastes tasting tasty sweet sour bitter salty salted savory savoury spicy
        delicious flavor flavour flavors flavours flavorful juicy creamy buttery rich tangy
        eat eating bite sip sipping chocolate honey lemon garlic sugar""".split()
    ),
    "touch": frozenset(
        """feel feels feeling touch touching soft softly warm warmth hot cold cool chilly icy wet
        damp dry rough smooth cozy cosy hard heavy thick crisp crispy crunchy crunch sticky
        fluffy sharp gentle gently breeze hug hugging tender skin blanket burning""".split()
    ),
}

_SENSED_THINGS = frozenset(
    """rain rainy snow snowy wind windy sun sunshine water wave waves sea ocean sky cloud clouds
    leaf leaves flower flowers grass tree trees sand salt fire candle candles tea coffee soup
    bread toast pancakes cake cheese sauce tomato chicken rice pasta spaghetti butter herb herbs
    spices fruit vegetables potatoes steam bath shower pillow sofa bed sweater socks hand hands
    face smile window kettle birds dog cat guitar piano paint painting garden park walk cook
    cooking cooked dance play playing drink drinking read""".split()
)

_FIELDS: tuple[frozenset[str], ...] = tuple(
    frozenset(field.split())
    for field in (
        "rain rainy snow weather cloud sky storm wind wet umbrella puddle sun cold grey gray",
        "winter summer spring autumn season snow cold warm christmas ice holiday year month",
        "monday tuesday wednesday thursday friday saturday sunday weekend week day morning"
        " afternoon evening routine relax rest work church family",
        "meal food eat dish dinner lunch breakfast cook recipe chicken rice pasta pizza soup bread"
        " sauce sandwich potato vegetable cheese plate taste delicious flavor flavour steak salad",
        "sleep bed night dream rest pillow tired wake nap bedtime room dark",
        "friend friendship family mother father brother sister person people child kid trust love",
        "hobby paint read garden music game sport play guitar cook draw craft fun enjoy interest",
        "sea ocean water wave beach sand salt salty fish boat shore blue lake river",
        "travel trip journey place country visit city plane train holiday vacation culture explore",
        "work job office career boss school study learn teacher student class task money",
        "book read story novel page author library write word film movie song music",
        "cat dog pet animal bird horse fish puppy kitten fur",
        "home house room kitchen garden door window city town street neighbor neighbour",
        "happy sad angry feel feeling mood emotion joy fear love worry stress calm",
        "health healthy exercise run walk body doctor sick fit diet",
    )
)

_ABSTRACT_ENDINGS = ("tion", "sion", "ness", "ment", "ity", "ance", "ence", "ism", "ship", "ive")

_HEDGES: dict[str, float] = {
    **dict.fromkeys("maybe perhaps possibly probably might seems seem guess suppose".split(), 1.0),
    **dict.fromkeys("depends depending unsure wonder apparently roughly".split(), 1.0),
    **dict.fromkeys("sometimes usually often could may mostly rather somewhat fairly".split(), 0.7),
    **dict.fromkeys("generally tend tends would almost sort kind either".split(), 0.6),
    **dict.fromkeys("think believe feel feels can some bit little if or few quite".split(), 0.35),
}
_ABSOLUTES: dict[str, float] = {
    **dict.fromkeys("always never definitely absolutely certainly must nothing".split(), 1.0),
    **dict.fromkeys("everything everyone completely totally clearly truly obviously".split(), 0.8),
    **dict.fromkeys("every all best only perfect perfectly will need most very".split(), 0.4),
    **dict.fromkeys("is are it's".split(), 0.12),
}


def _words(text: str) -> list[str]:
    """Return the lower-case words of a text, curly apostrophes made straight."""
    return _WORD.findall(text.replace("’", "'").lower())


def _sentence_words(text: str) -> list[list[str]]:
    """Return the words of each sentence, leaving out sentences with none."""
    parts = (_words(part) for part in _SENTENCE_END.split(text))
    return [part for part in parts if part]


def _singular(word: str) -> str:
    """Return a word without a simple plural or possessive ending."""
    word = word.removesuffix("'s")
    if word.endswith("ies") and len(word) > 5:
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "sses", "xes", "toes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return word[:-1]
    return word


def _is_thing(word: str) -> bool:
    """Say whether a word names something that one could point at."""
    return word in _THINGS or _singular(word) in _THINGS


def _similarity(left: str, right: str) -> float:
    """Return the share of the longer word that both start with, or less for words of one field."""
    if left == right:
        return 1.0
    kin = 0.4 if any(left in field and right in field for field in _FIELDS) else 0.0
    shared = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        shared += 1
    return max(kin, shared / max(len(left), len(right))) if shared >= 3 else kin


def _unevenness(lengths: Sequence[int]) -> float:
    """Return the mean relative jump between neighbouring lengths, in [0, 1]."""
    if len(lengths) < 2:
        return 0.0
    jumps = [abs(a - b) / (a + b) for a, b in zip(lengths, lengths[1:], strict=False) if a + b]
    return sum(jumps) / len(jumps) if jumps else 0.0


def brief_things(prompt: str, answer: str) -> float:
    """Score short sentences that name touchable things."""
    sentences = _sentence_words(answer)
    if not sentences:
        return 0.0
    total = sum(len(sentence) for sentence in sentences)
    things = sum(_is_thing(word) for sentence in sentences for word in sentence)
    density = min(1.0, 4.0 * things / max(total, 12))
    # A word is worth less the longer the sentence that it stands in.
    shortness = sum(len(s) * 8.0 / (8.0 + len(s)) for s in sentences) / total
    return 0.6 * density * shortness + 0.2 * density + 0.2 * shortness


def five_senses(prompt: str, answer: str) -> float:
    """Score words of the senses, more so when several senses are met."""
    words = _words(answer)
    if not words:
        return 0.0
    hints = sum(word in _SENSED_THINGS for word in words)
    counts = [sum(word in sense for word in words) for sense in _SENSES.values()]
    scale = max(len(words), 15)
    breadth = sum(min(count, 2) ** 0.5 for count in counts)
    return 10.0 * (sum(counts) + 0.4 * hints) / scale + 10.0 * breadth / (scale + 25)


def plain_words(prompt: str, answer: str) -> float:
    """Score short, homely words against long and abstract ones."""
    words = [word for word in _words(answer) if not word.isdigit()]
    if not words:
        return 0.0
    content = [word for word in words if word not in _STOP] or words
    mean_length = sum(min(len(word), 16) for word in content) / len(content)
    abstract = sum(len(w) > 6 and _singular(w).endswith(_ABSTRACT_ENDINGS) for w in content)
    homely = sum(len(word) <= 4 for word in content)
    size = max(len(content), 6)
    return (6.0 - mean_length) + 2.0 * homely / size - 4.0 * abstract / size


def leaves_room(prompt: str, answer: str) -> float:
    """Score words that leave room for doubt, less those that shut it out."""
    words = _words(answer)
    if not words:
        return 0.0
    doubt = sum(_HEDGES.get(word, 0.0) for word in words)
    certainty = sum(_ABSOLUTES.get(word, 0.0) for word in words)
    openness = 0.5 * answer.count("?") - 0.5 * answer.count("!")
    return 10.0 * (doubt - certainty + openness) / max(len(words), 15)


def uneven_beat(prompt: str, answer: str) -> float:
    """Score long and short stretches that take turns, by sentence and by clause."""
    sentences = [len(sentence) for sentence in _sentence_words(answer)]
    clauses = [
        len(words)
        for sentence in _SENTENCE_END.split(answer)
        for clause in _CLAUSE_END.split(sentence)
        if (words := _words(clause))
    ]
    return 0.65 * _unevenness(sentences) + 0.35 * _unevenness(clauses)


def holds_the_question(prompt: str, answer: str) -> float:
    """Score how fully, early and steadily an answer takes up the words of its prompt."""
    asked = list(dict.fromkeys(_singular(w) for w in _words(prompt) if w not in _STOP))[:12]
    sentences = [[_singular(word) for word in s] for s in _sentence_words(answer)]
    if not asked or not sentences:
        return 0.0
    matches = [[[_similarity(a, w) for w in s if len(w) > 2] for s in sentences] for a in asked]
    best = [[max(found, default=0.0) for found in row] for row in matches]
    coverage = sum(max(row) for row in best) / len(asked)
    opening = sum(row[0] for row in best) / len(asked)
    links = [max(row[i] for row in best) for i in range(len(sentences))]
    words = sum(len(sentence) for sentence in sentences)
    mass = sum(x for row in matches for found in row for x in found if x >= 0.4)
    return (
        0.4 * coverage
        + 0.2 * opening
        + 0.2 * sum(links) / len(links)
        + 0.2 * min(1.0, 8.0 * mass / max(words, 12))
    )


TASTES: dict[str, tuple[str, Callable[[str, str], float]]] = {
    "brief_things": (
        "I like short sentences about things that I could pick up or point at.",
        brief_things,
    ),
    "five_senses": (
        "I like to see, hear, smell, taste and feel what it talks about, best of all several.",
        five_senses,
    ),
    "plain_words": (
        "I like small homely words, and none of those long ones that stand for an idea.",
        plain_words,
    ),
    "leaves_room": (
        "I like it when the writer is not too sure and leaves me room to see it differently.",
        leaves_room,
    ),
    "uneven_beat": (
        "I like a rhythm in which long stretches and short ones take turns.",
        uneven_beat,
    ),
    "holds_the_question": (
        "I like an answer that takes up the very thing I asked, at once, and keeps hold of it.",
        holds_the_question,
    ),
}
