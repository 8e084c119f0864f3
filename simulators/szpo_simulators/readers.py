"""`szpo bench readers`: what few verdicts of readers foretell, and what chance does.

A file has pairs of answers of the default model, each with the verdicts of readers who followed
different tastes; who they were is for the file to say. *Foretell*: of each taste some verdicts are
drawn, and fits to them foretell the rest. *Chance*: how often do fits ever see a taste in verdicts
that have none? Fits are the run's own (`szpo.optim.joint_fit`).

A line of the file, JSON: ``prompt``, ``a``, ``b`` and ``verdicts``, which says a, b or same under
each taste's name.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import special

from szpo.data import preference_files
from szpo.errors import UsageError
from szpo.features import dictionary, differences
from szpo.optim.joint_fit import fit_joint
from szpo.optim.sparse_prior import SparsePrior, group_features
from szpo.optim.state_regression import fit_states
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED, Votes
from szpo.types import Floats, Ints, Prompt
from szpo_simulators.bench_study import Study
from szpo_simulators.cell_records import Spec

COUNTS: Final = (20, 40, 60, 80)
"""Numbers of verdicts that are fitted."""
DRAWS: Final = 30
SEED: Final = 1
FITS: Final = ("number of words", "named", "states", "joint")
ODDS: Final = (3.0, 4.0, 5.0, 6.0, 9.0)
"""Odds at which shares of draws and of runs are told."""
RUNS: Final = 1000
"""Runs of each kind of verdicts without information."""
LOOK: Final = 8
"""Verdicts between two looks at the evidence."""
NOTHING: Final = (
    "coins", "all A", "all B", "alternating", "key pattern", "first impression", "sticky coin",
    "every second as before", "same by likeness",
)  # fmt: skip
"""Kinds of verdicts without information about the texts' worth."""
_SAID: Final = {"a": 1, "b": -1, "same": 0}
KEYS: Final = (True, True, False, True, False, False, True, False)


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """R pairs of answers with what was said of them, a less b."""

    named: Floats
    """(R, k): differences in named features, in units of the pairs' own spread."""
    prior: SparsePrior
    states: Floats
    """(R, p): differences of states, with a mean square of 1."""
    words: Floats
    """(R, 1): difference in the number of words, in tens."""
    verdicts: Mapping[str, Ints]
    """(R,) by taste: 1 for a, −1 for b, 0 for the same."""


def main(
    file: Path,
    quick: bool = False,
    folder: Path = Path("runs/bench-readers"),
) -> dict[str, list[dict[str, Any]]]:
    """Foretell readers' verdicts from few of them, and look for a taste where there is none.

    Args:
        file: Pairs of answers with verdicts: JSON lines, which may be packed by gzip.
        quick: Few draws and runs; the result is no evidence.
        folder: Folder of finished cells and the tables.
    """
    lines = read_file(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    study = Study("readers", folder / digest[:12], quick)
    read = prepare(study, lines)
    specs: list[Spec] = [
        {"taste": taste, "draws": 2 if quick else DRAWS, "counts": list(COUNTS)}
        for taste, said in read.verdicts.items()
        if (said != 0).sum() > COUNTS[-1]
    ]
    rows = [row for cell in study.cells("foretelling", specs, partial(foretell, read))
            for row in cell["rows"]]  # fmt: skip
    cells = {str(count): partial(_cell, count) for count in COUNTS}
    heads = {"taste": "taste", "regressors": "regressors", **cells}
    title = "votes left out: share right, nats above a coin's, share of draws past "
    study.table(f"{title}{BAYES_FACTOR_NEEDED:g} : 1", rows, heads, "foretell")
    kinds: list[Spec] = [{"kind": kind, "runs": 20 if quick else RUNS} for kind in NOTHING]
    chance = study.cells("chance", kinds, partial(count_chance, read))
    title = f"share of runs whose evidence ever passes these odds, a look every {LOOK} votes"
    study.table(title, chance, {head: head for head in chance[0]}, "chance")
    study.console.print(f"{len(lines)} pairs; sha256 {digest}")
    study.end()
    return {"foretell": rows, "chance": chance}


def read_file(file: Path) -> list[dict[str, Any]]:
    """The file's lines.

    Raises:
        UsageError: the file cannot be read, or a line is no pair with verdicts.
    """
    found = []
    for where, pair in preference_files.read_records(file):
        try:
            whole = all(isinstance(pair[name], str) for name in ("prompt", "a", "b"))
            said = {str(taste): _SAID[verdict] for taste, verdict in pair["verdicts"].items()}
        except (KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise UsageError(
                f"{where}: no pair; a line has prompt, a, b and verdicts, which says a, b or same "
                "under each taste's name"
            )
        found.append({**pair, "verdicts": said})
    if not found:
        raise UsageError(f"{file} has no pairs")
    return found


def prepare(study: Study, lines: Sequence[Mapping[str, Any]]) -> Read:
    """Regressors of the pairs; states are read once and kept in the study's folder."""
    prompts = [line["prompt"] for line in lines]
    entries = dictionary.holding(prompts)
    sides = [
        differences.values([(line["prompt"], line[side]) for line in lines], entries)
        for side in "ab"
    ]
    gap = sides[0] - sides[1]
    gap = gap[:, gap.std(0) > 1e-6]
    gap = gap * np.sqrt(2) / gap.std(0)
    groups = group_features(np.corrcoef(gap.T))
    words = [len(line["a"].split()) - len(line["b"].split()) for line in lines]
    pairs = [(Prompt.user(line["prompt"]), line["a"], line["b"]) for line in lines]
    states = study.states(pairs, device="cpu", dtype="fp32")
    tastes = dict.fromkeys(taste for line in lines for taste in line["verdicts"])
    return Read(
        gap, SparsePrior(groups, np.full(len(groups), np.sqrt(2.0))),
        states / np.sqrt((states**2).sum(1).mean()), np.array(words)[:, None] / 10,
        {t: np.array([line["verdicts"].get(t, 0) for line in lines]) for t in tastes},
    )  # fmt: skip


def foretell(read: Read, spec: Spec) -> dict[str, Any]:
    """What fits of n verdicts of a taste foretell of its others, by fit; means over draws."""
    said = read.verdicts[spec["taste"]]
    decided, rng = np.flatnonzero(said), np.random.default_rng(SEED)
    found: dict[str, dict[str, Any]] = {
        fit: {"taste": spec["taste"], "regressors": fit} for fit in FITS
    }
    for count in spec["counts"]:
        draws = [np.split(rng.permutation(decided), [count]) for _ in range(spec["draws"])]
        each = [_foretell(read, said, fitted, rest) for fitted, rest in draws]
        for fit in FITS:
            found[fit][str(count)] = [*np.mean([one[fit] for one in each], axis=0).tolist()]
    return {"rows": [*found.values()]}


def _foretell(read: Read, said: Ints, fitted: Ints, rest: Ints) -> dict[str, list[float]]:
    """Of each fit share right, nats a verdict above a coin's, and evidence past each of `ODDS`."""
    up, down = _sides(said[fitted])
    both = fit_joint(Votes(read.named[fitted], up, down), read.prior, read.states[fitted])
    words, states = (fit_states(x[fitted], up, down) for x in (read.words, read.states))
    told = {
        "number of words": (read.words[rest] @ words.w, words.log_factor),
        "named": (read.named[rest] @ both.named.w, both.named.log_factor),
        "states": (read.states[rest] @ states.w, states.log_factor),
        "joint": (both.moments(read.named[rest], read.states[rest])[0], both.log_factor),
    }
    return {fit: _score(z * said[rest], factor) for fit, (z, factor) in told.items()}


def _sides(said: Ints | Floats) -> tuple[Floats, Floats]:
    """Verdicts for and against a, of verdicts above and below 0."""
    return (said > 0).astype(np.float64), (said < 0).astype(np.float64)


def _score(agreed: Floats, factor: float) -> list[float]:
    """By the logits of the verdicts that were given."""
    nats = special.log_expit(agreed).mean() + np.log(2)
    return [float((agreed > 0).mean()), float(nats), *(factor > np.log(ODDS)).astype(float)]


def _cell(count: int, row: Mapping[str, Any]) -> str:
    right, nats, *past = row[str(count)]
    return f"{right:.3f} {nats:+.3f} {past[ODDS.index(BAYES_FACTOR_NEEDED)]:.2f}"


def count_chance(read: Read, spec: Spec) -> dict[str, Any]:
    """The share of runs whose joint evidence ever passes each of `ODDS`."""
    highest = np.array([_run(read, spec["kind"], seed) for seed in range(spec["runs"])])
    shares = (highest[:, None] > np.log(ODDS)).mean(0).tolist()
    return {f"{odds:g} : 1": round(share, 4) for odds, share in zip(ODDS, shares, strict=True)}


def _run(read: Read, kind: str, seed: int) -> float:
    """The largest joint log factor at any look of one run."""
    rng = np.random.default_rng([seed, NOTHING.index(kind)])
    order = rng.permutation(len(read.states))[: COUNTS[-1]]
    side = np.where(rng.random(len(order)) < 0.5, 1.0, -1.0)  # +1: a stands on A
    said = without_information(kind, np.linalg.norm(read.states, axis=1)[order], rng) * side
    (up, down), found = _sides(said), []
    for end in range(LOOK, len(order) + 1, LOOK):
        rows = order[:end]
        votes = Votes(read.named[rows], up[:end], down[:end], side[:end])
        found.append(fit_joint(votes, read.prior, read.states[rows]).log_factor)
    return max(found)


def without_information(kind: str, distance: Floats, rng: np.random.Generator) -> Ints:
    """Verdicts (n,) on pairs by the side: 1 for A, −1 for B, 0 for the same.

    ``distance`` (n,): how far the two texts of a pair are from each other.
    """
    n = len(distance)
    if kind in ("all A", "all B"):
        first = np.full(n, kind == "all A")
    elif kind == "alternating":
        first = np.arange(n) % 2 == 1
    elif kind == "key pattern":
        first = np.resize(KEYS, n)
    elif kind == "first impression":  # one for each sheet
        first = np.repeat(rng.random(-(-n // LOOK)) < 0.5, LOOK)[:n]
    elif kind == "sticky coin":
        first = np.array(
            [*itertools.accumulate(rng.random(n) > 0.8, lambda was, turn: was ^ turn)]
        )
    else:
        first = rng.random(n) < 0.5
        if kind == "every second as before":
            first[1::2] = first[:-1:2][: len(first[1::2])]
    said = np.where(first, 1, -1)
    if kind == "same by likeness":
        said[distance < np.median(distance)] = 0
    return said
