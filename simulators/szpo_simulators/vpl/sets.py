"""Synthetic data with known truth: two users as features; pets and two attributes as texts.

In each, half of the pairs are controversial: the two users prefer opposite sides. So a model
without users is right on at most half of those and on 75 % of all; one with users, on all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from szpo import seeds
from szpo_simulators.vpl.data import Pairs, UserVote

DIM: Final = 6
PETS: Final = {
    "bird": ("parrot", "sparrow", "bird"),
    "dog": ("puppy", "hound", "dog"),
    "cat": ("kitten", "tomcat", "cat"),
    "rabbit": ("bunny", "hare", "rabbit"),
}
RANKS: Final = {
    "dogs": ("bird", "dog", "cat", "rabbit"),
    "cats": ("bird", "cat", "dog", "rabbit"),
}
"""What each of two users prefers, best first."""
OPENINGS: Final = (
    "My neighbour keeps", "We once met", "The children drew", "I dreamt of", "There lives",
    "Her aunt looks after", "The story tells of", "They found", "He talks about", "Look at",
)  # fmt: skip
ENDINGS: Final = (
    "by the river", "in a red box", "under the stairs", "who sleeps all day", "with bright eyes",
    "that follows everybody", "in the old garden", "and feeds it at noon", "on a rainy morning",
    "next to the stove",
)  # fmt: skip
WARMTH: Final = (
    ("dreadful", "hateful", "wretched"), ("dull", "grey", "tiresome"),
    ("nice", "pleasant", "friendly"), ("wonderful", "delightful", "adorable"),
)  # fmt: skip
FACTS: Final = (
    "It opened in spring.", "The train takes an hour.", "Tickets are sold at the gate.",
    "Lunch is served until two.", "The tower has nine floors.", "A guide speaks three languages.",
)  # fmt: skip
TOPICS: Final = ("the market", "the castle", "the museum", "the harbour", "the zoo", "the park")
TRAINING: Final = 80
"""Of a hundred sentences about a pet, those that are trained on; others are tested on."""


def two_users(n: int, seed: int, part: str = "train") -> Pairs:
    """Pairs of points ~ N(0, I₆): user 0 wants x₀ + x₁ large, user 1 x₀ − x₁; no vote is wrong.

    Controversial pairs are those that differ more in x₁ than in x₀: one half.
    """
    key = seeds.derive(seed, "two users", name=part)
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    x = rng.normal(size=(2, n, DIM))
    user = rng.integers(0, 2, n)
    gap = x[0] - x[1]
    swap = gap[:, 0] + (1 - 2 * user) * gap[:, 1] < 0
    chosen = np.where(swap[:, None], x[1], x[0])
    rejected = np.where(swap[:, None], x[0], x[1])
    return Pairs(chosen, rejected, user, np.abs(gap[:, 1]) > np.abs(gap[:, 0]))


def pets(n: int, seed: int, part: str = "train") -> list[UserVote]:
    """Sentences about pets: all like birds most and rabbits least, users differ on the rest.

    Half of the pairs set a dog against a cat. Test sentences are none of the training ones.
    """
    pick = _draws(seed, "pets", part, n * 12)
    votes = []
    for _ in range(n):
        user = list(RANKS)[pick(2)]
        controversial = bool(pick(2))
        if controversial:
            kinds = ["dog", "cat"]
        else:
            others = [("bird", "dog"), ("bird", "cat"), ("bird", "rabbit"), ("dog", "rabbit"),
                      ("cat", "rabbit")]  # fmt: skip
            kinds = list(others[pick(5)])
        kinds.sort(key=RANKS[user].index)
        chosen, rejected = (_pet(kind, pick, part) for kind in kinds)
        votes.append(UserVote(user, chosen, rejected, controversial, "Tell me about a pet."))
    return votes


def _pet(kind: str, pick: Callable[[int], int], part: str) -> str:
    place = pick(TRAINING) if part == "train" else TRAINING + pick(100 - TRAINING)
    # Spread over both lists, so that a test sentence is new as a whole, not in its words.
    opening, ending = OPENINGS[place % 10], ENDINGS[(place // 10 + place) % 10]
    return f"{opening} a {PETS[kind][pick(3)]} {ending}."


def two_attributes(n: int, seed: int, part: str = "train") -> list[UserVote]:
    """Notes on a place, of four grades of warmth and with none to three facts.

    One user wants warmth, the other facts. Both differ in every pair, so both users have a
    preference, the same one in half of them.
    """
    pick = _draws(seed, "two attributes", part, n * 32)
    votes = []
    for _ in range(n):
        topic, user = TOPICS[pick(len(TOPICS))], ("warm", "full")[pick(2)]
        grades = [(i := pick(4), (i + 1 + pick(3)) % 4) for _ in range(2)]  # warmth, facts
        one, other = (_note(topic, grades[0][side], grades[1][side], pick) for side in (0, 1))
        wanted = grades[user == "full"]
        chosen, rejected = (one, other) if wanted[0] > wanted[1] else (other, one)
        controversial = (grades[0][0] > grades[0][1]) != (grades[1][0] > grades[1][1])
        votes.append(UserVote(user, chosen, rejected, controversial, f"What is {topic} like?"))
    return votes


def _note(topic: str, warmth: int, facts: int, pick: Callable[[int], int]) -> str:
    word = WARMTH[warmth][pick(3)]
    start = pick(len(FACTS))
    chosen = [FACTS[(start + i) % len(FACTS)] for i in range(facts)]
    return " ".join([f"{topic.capitalize()} is {word}.", *chosen])


def _draws(seed: int, purpose: str, part: str, count: int) -> Callable[[int], int]:
    """A function that gives the next integer below its argument."""
    u = iter(seeds.uniform(seeds.derive(seed, purpose, name=part), count).tolist())
    return lambda below: int(next(u) * below)


SETS: Final[dict[str, Callable[[int, int, str], Sequence[UserVote]]]] = {
    "pets": pets,
    "two-attributes": two_attributes,
}
"""The sets of texts by name: n, seed and "train" or "test"."""
