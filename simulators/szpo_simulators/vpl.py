"""`szpo bench vpl`: users with different tastes, two or four, with and without a user latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from szpo import seeds
from szpo_simulators.bench_study import (
    Study,
    bench,
    draw_points,
    format_interval,
    interval,
    seed_range,
)
from szpo_simulators.cell_records import Spec
from szpo_simulators.worlds.vpl import KINDS, Pairs, Recipe, fit, hash_votes, latent, scores

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
"""Each user's order of preference, best first."""
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
ADVICE: Final = (
    "Bring a coat.", "Book ahead.", "Leave the car at home.", "Go early.", "Carry some coins.",
    "Wear good shoes.",
)  # fmt: skip
DOUBTS: Final = (
    "I may be wrong about the hours.", "I have not checked the price.", "Others may disagree.",
    "My map is old.", "I only heard this.", "It may have changed since.",
)  # fmt: skip
SENTENCES: Final = {"full": FACTS, "helpful": ADVICE, "honest": DOUBTS}
TOPICS: Final = ("the market", "the castle", "the museum", "the harbour", "the zoo", "the park")
TRAINING: Final = 80
"""How many of a hundred sentences about a pet are for training; the others are for tests."""

SIZES: Final = {
    "two-users": (4000, 10), "pets": (2000, 8), "two-attributes": (2000, 12),
    "four-attributes": (4000, 12),
}  # fmt: skip
"""(training pairs, epochs) of each set."""
TESTED: Final = 4000
CONTEXTS: Final = (1, 2, 4, 8)
COLLAPSED: Final = 10.0
"""A weight of the KL term so large that no unit of the latent stays active."""


def two_users(n: int, seed: int, part: str = "train") -> Pairs:
    """Pairs of points ~ N(0, I₆): user 0 wants x₀ + x₁ large, user 1 x₀ − x₁; votes have no noise.

    Controversial pairs differ more in x₁ than in x₀; these are half of all.
    """
    rng = seeds.generator(seeds.derive(seed, "two users", name=part))
    x = rng.normal(size=(2, n, DIM))
    user = rng.integers(0, 2, n)
    gap = x[0] - x[1]
    swap = gap[:, 0] + (1 - 2 * user) * gap[:, 1] < 0
    chosen = np.where(swap[:, None], x[1], x[0])
    rejected = np.where(swap[:, None], x[0], x[1])
    return Pairs(chosen, rejected, user, np.abs(gap[:, 1]) > np.abs(gap[:, 0]))


def pets(n: int, seed: int, part: str = "train") -> Pairs:
    """Sentences about pets: all users like birds most and rabbits least, but differ on the rest.

    Half of the pairs compare a dog with a cat. No test sentence is a training sentence.
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
        votes.append((user, chosen, rejected, controversial))
    return hash_votes(votes)


def _pet(kind: str, pick: Callable[[int], int], part: str) -> str:
    place = pick(TRAINING) if part == "train" else TRAINING + pick(100 - TRAINING)
    # Spread over both lists, so that a test sentence is new but its words are not.
    opening, ending = OPENINGS[place % 10], ENDINGS[(place // 10 + place) % 10]
    return f"{opening} a {PETS[kind][pick(3)]} {ending}."


def attributes(wanted: Sequence[str], n: int, seed: int, part: str = "train") -> Pairs:
    """Notes on a place, with four grades of warmth and zero to three sentences of other kinds.

    Each user wants one of these. The notes of a pair differ in all, so each user has a preference;
    pairs on which users disagree are controversial: half with two users, seven eighths with four.
    """
    number = {2: "two", 4: "four"}[len(wanted)]
    pick = _draws(seed, f"{number} attributes", part, n * 32)
    votes = []
    for _ in range(n):
        topic, user = TOPICS[pick(len(TOPICS))], pick(len(wanted))
        grades = [(i := pick(4), (i + 1 + pick(3)) % 4) for _ in wanted]
        sides = (dict(zip(wanted, side, strict=True)) for side in zip(*grades, strict=True))
        one, other = (_note(topic, side, pick) for side in sides)
        better = [first > second for first, second in grades]
        chosen, rejected = (one, other) if better[user] else (other, one)
        votes.append((wanted[user], chosen, rejected, len(set(better)) > 1))
    return hash_votes(votes)


def _note(topic: str, grades: dict[str, int], pick: Callable[[int], int]) -> str:
    said = [f"{topic.capitalize()} is {WARMTH[grades['warm']][pick(3)]}."]
    for name, sentences in SENTENCES.items():
        if name in grades:
            start = pick(len(sentences))
            said += [sentences[(start + i) % len(sentences)] for i in range(grades[name])]
    return " ".join(said)


def _draws(seed: int, purpose: str, part: str, count: int) -> Callable[[int], int]:
    """A function that returns the next random integer from 0 to below its argument."""
    u = iter(seeds.uniform(seeds.derive(seed, purpose, name=part), count).tolist())
    return lambda below: int(next(u) * below)


def work(spec: Spec) -> dict[str, Any]:
    """Train one model on one set; its accuracy on new pairs and the use of its latent."""
    sets: dict[str, Callable[[int, int, str], Pairs]] = {
        "two-users": two_users,
        "pets": pets,
        "two-attributes": partial(attributes, ("warm", "full")),
        "four-attributes": partial(attributes, ("warm", "full", "helpful", "honest")),
    }
    make = sets[spec["set"]]
    train, test = make(spec["n"], spec["seed"], "train"), make(TESTED, spec["seed"], "test")
    recipe = Recipe(kind=spec["model"], epochs=spec["epochs"], beta=spec["beta"])
    fitted = fit(train, recipe, spec["seed"])
    every, controversial = scores(fitted, test)
    found: dict[str, Any] = {
        "all": every.value,
        "controversial": controversial.value,
        "pairs": len(test),
        "controversial_pairs": int(controversial.of),
    }
    if recipe.kind == "vae":
        found |= latent(fitted, test)
        found |= {f"context_{n}": scores(fitted, test, size=n)[1].value for n in CONTEXTS}
    return found


@bench("vpl")
def main(study: Study) -> dict[str, Any]:
    """Three sets with two users and one with four: a latent per user, three models without."""
    repetitions = seed_range(1 if study.quick else 5)
    chosen = {"two-users": SIZES["two-users"]} if study.quick else SIZES
    kinds: list[tuple[str, str, float]] = [
        *((name, model, Recipe().beta) for name in chosen for model in KINDS),
        ("two-users", "vae", COLLAPSED),
    ]
    specs = [
        {"set": name, "model": model, "n": chosen[name][0], "epochs": chosen[name][1],
         "beta": beta, "seed": seed}
        for name, model, beta in kinds for seed in repetitions
    ]  # fmt: skip
    found = study.cells("fits", specs, work)
    rows = [_row(found, *kind) for kind in kinds]

    def column(name: str) -> Any:
        return lambda row: format_interval(row[name], 3)

    study.table(
        f"right of {TESTED} new pairs, {len(repetitions)} seeds; without users at most .75, .50, "
        "with four users .69, .64",
        rows,
        {
            "set": "set", "model": "model", "KL weight": "beta", "all": column("all"),
            "controversial": column("controversial"), "lowest": "lowest", "highest": "highest",
        },
    )  # fmt: skip
    latents = [row for row in rows if row["model"] == "vae"]
    study.table(
        "the latent: controversial pairs, by pairs of the user that are given",
        latents,
        {
            "set": "set", "KL weight": "beta",
            **{f"{size}": column(f"context_{size}") for size in CONTEXTS},
            "active of 8": column("active"), "KL, nats": column("kl"), "collapsed": "collapsed",
        },
    )  # fmt: skip
    study.csv("vpl", found)
    with study.figure("vpl", columns=1, height=3.4) as axes:
        names = list(chosen)
        for j, model in enumerate(KINDS):
            own = [row for row in rows[:-1] if row["model"] == model]
            places = [names.index(row["set"]) + 0.14 * (j - 1.5) for row in own]
            draw_points(axes, places, [row["controversial"] for row in own], model, fmt="osD^"[j])
        axes.axhline(0.5, color="#888888", linewidth=0.8)
        axes.set_xticks(range(len(names)), names)
        axes.set(ylabel="controversial pairs right", ylim=(0.4, 1.02))
        axes.legend(fontsize=8, loc="center right")
    study.end()
    return {"vpl": found}


def _row(found: list[dict[str, Any]], name: str, model: str, beta: float) -> dict[str, Any]:
    own = [r for r in found if (r["set"], r["model"], r["beta"]) == (name, model, beta)]
    figures = [key for key in own[0] if key.startswith(("context_", "active", "kl"))]
    values = [r["controversial"] for r in own]
    return {
        "set": name, "model": model, "beta": beta, "lowest": min(values), "highest": max(values),
        "collapsed": sum(bool(r.get("collapsed")) for r in own),
        **{key: interval([r[key] for r in own]) for key in ("all", "controversial", *figures)},
    }  # fmt: skip
