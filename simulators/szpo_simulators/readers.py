"""`szpo bench readers`: what few verdicts of readers foretell, and what chance does.

A file has pairs of answers of the default model, each with the verdicts of readers who followed
different tastes; who they were is for the file to say. *Foretell*: of each taste some verdicts are
drawn, and fits to them foretell the rest. *Known*: what do directions fitted to the other readers'
tastes add, on pairs that nobody's verdicts were taken from? *Programs*: does the joint fit lose
anything on twenty tastes that programs count? *Chance*: how often do fits ever see a
taste in verdicts that have none? Fits are the run's own (`szpo.optim.joint_fit`).

A line of the file, JSON: ``prompt``, ``a``, ``b`` and ``verdicts``, which says a, b or same under
each taste's name.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import optimize, special

from szpo.errors import UsageError
from szpo.features import dictionary, differences
from szpo.optim.joint_fit import fit_joint
from szpo.optim.sparse_prior import SparsePrior, group_features
from szpo.optim.state_regression import fit_states
from szpo.optim.vote_regression import BAYES_FACTOR_NEEDED, Votes
from szpo.types import Answer, Floats, Ints, Prompt
from szpo_simulators.panels import tastes as programs
from szpo_simulators.records import Spec
from szpo_simulators.study import Study

COUNTS: Final = (20, 40, 60, 80)
"""Numbers of verdicts that are fitted."""
KNOWN_AT: Final = (10, 20, 40)
"""The same where the other readers' tastes are known."""
SET_ASIDE: Final = 1 / 3
"""Share of the pairs of which no reader's verdicts are fitted then."""
BEFORE: Final = 9.0
"""Odds that a taste needed when votes were fitted on named features alone."""
VOTERS: Final = 10
"""Voters of each taste of a program."""
AGREEMENT: Final = 0.7
"""How often two of their votes on the same pair agree."""
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
KEYS: Final = (True, True, False, True, False, False, True, False)

Coin = Callable[[int, np.random.Generator], Ints]
"""From a number of pairs to verdicts: 1 for A, −1 for B, 0 for the same."""
_SAID: Final = {"a": 1, "b": -1, "same": 0}


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
    rewards: Mapping[str, Floats] = field(default_factory=dict)
    """(R,) by taste of a program: its difference."""


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
    heads = {"taste": "taste", "regressors": "regressors"}
    for count in COUNTS:
        heads[str(count)] = partial(_cell, count)  # type: ignore[assignment]
    title = "votes left out: share right, nats above a coin's, share of draws past "
    study.table(f"{title}{BAYES_FACTOR_NEEDED:g} : 1", rows, heads, "foretell")
    specs = [{**spec, "counts": list(KNOWN_AT)} for spec in specs]
    known = study.cells("knowing other tastes", specs, partial(foretell_knowing, read))
    title = "pairs set aside: nats a verdict by the joint fit, gain by the other readers' tastes"
    study.table(title, _gains(known), {"taste": "taste"} | {str(n): str(n) for n in KNOWN_AT},
                "known")  # fmt: skip
    specs = [{"program": name, "voters": 2 if quick else VOTERS} for name in read.rewards]
    programs = study.cells("tastes of programs", specs, partial(learn_program, read))
    title = f"tastes of programs after {COUNTS[1]} and {COUNTS[-1]} votes: correlation on others"
    rows_of = _by_class(programs)
    study.table(title, rows_of, {head: head for head in rows_of[0]}, "programs")
    kinds: list[Spec] = [{"kind": kind, "runs": 20 if quick else RUNS} for kind in NOTHING]
    chance = study.cells("chance", kinds, partial(count_chance, read))
    title = f"share of runs whose evidence ever passes these odds, a look every {LOOK} votes"
    study.table(title, chance, {head: head for head in chance[0]}, "chance")
    study.console.print(f"{len(lines)} pairs; sha256 {digest}")
    study.end()
    return {"foretell": rows, "known": known, "programs": programs, "chance": chance}


def read_file(file: Path) -> list[dict[str, Any]]:
    """The file's lines.

    Raises:
        UsageError: the file cannot be read, or a line is no pair with verdicts.
    """
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read ({error})") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            pair = json.loads(line)
            whole = all(isinstance(pair[name], str) for name in ("prompt", "a", "b"))
            said = {str(taste): _SAID[verdict] for taste, verdict in pair["verdicts"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            raise UsageError(
                f"{file}, line {number}: no pair; a line has prompt, a, b and verdicts, which "
                "says a, b or same under each taste's name"
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
    states = _by_file(study, lines)
    tastes = dict.fromkeys(taste for line in lines for taste in line["verdicts"])
    return Read(
        gap, SparsePrior(groups, np.full(len(groups), np.sqrt(2.0))),
        states / np.sqrt((states**2).sum(1).mean()), np.array(words)[:, None] / 10,
        {t: np.array([line["verdicts"].get(t, 0) for line in lines]) for t in tastes},
        {name: np.array([of(each["prompt"], each["a"]) - of(each["prompt"], each["b"])
                         for each in lines])
         for name, (_, of) in programs.TASTES.items()},
    )  # fmt: skip


def _by_file(study: Study, lines: Sequence[Mapping[str, Any]]) -> Floats:
    """Differences of states (R, p) by the default model."""
    from szpo.models import loading, states

    file = study.folder / "states.npy"
    if not file.exists():
        model = loading.load("smollm2", device="cpu", dtype="fp32")
        texts = [
            (Prompt.user(line["prompt"]), Answer(line[side])) for side in "ab" for line in lines
        ]
        layer = states.usual_layer(len(states.layers_of(model.model)))
        study.console.print(f"reading layer {layer} of smollm2")
        found = states.of_texts(model, texts, layer)
        study.folder.mkdir(parents=True, exist_ok=True)
        np.save(file, found[: len(lines)] - found[len(lines) :])
    return np.asarray(np.load(file, allow_pickle=False))


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


def foretell_knowing(read: Read, spec: Spec) -> dict[str, Any]:
    """What the other readers' tastes add to fits of n verdicts, on pairs set aside in each draw.

    By n and pair, sums over draws: the nats of its verdict by the joint fit, by the joint fit that
    knows the others' directions, and how often it was foretold. Tastes whose names differ by
    digits alone are one.
    """
    said, rng = read.verdicts[spec["taste"]], np.random.default_rng(SEED)
    others = [read.verdicts[name] for name in read.verdicts if _one(name) != _one(spec["taste"])]
    sums = {str(count): np.zeros((3, len(said))) for count in spec["counts"]}
    for _ in range(spec["draws"]):
        order = rng.permutation(len(said))
        aside, seen = np.split(order, [round(SET_ASIDE * len(said))])
        asked, pool = aside[said[aside] != 0], seen[said[seen] != 0]
        known = np.array([_direction(read, other, seen) for other in others])
        for count in spec["counts"]:
            rows = rng.permutation(pool)[:count]
            votes = Votes(read.named[rows], *_sides(said[rows]))
            both = [fit_joint(votes, read.prior, read.states[rows], k) for k in (None, known)]
            for at, fit in enumerate(both):
                logits = fit.moments(read.named[asked], read.states[asked])[0]
                sums[str(count)][at, asked] += special.log_expit(logits * said[asked])
            sums[str(count)][2, asked] += 1
    return {"taste": spec["taste"], **{count: each.tolist() for count, each in sums.items()}}


def _one(taste: str) -> str:
    return taste.rstrip("0123456789")


def _direction(read: Read, said: Ints, rows: Ints) -> Floats:
    """The direction of a reader's verdicts on these pairs."""
    rows = rows[said[rows] != 0]
    return fit_states(read.states[rows], *_sides(said[rows])).w


def _gains(known: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Nats above a coin's and the gain ± its standard error over pairs, by taste, then of all."""
    rows = [{"taste": each["taste"]} for each in known] + [{"taste": "all"}]
    for count in map(str, KNOWN_AT):
        nats, gains = [], []
        for row, each in zip(rows, known, strict=False):
            plain, knowing, times = np.array(each[count])
            met = times > 0
            nats.append(float(plain.sum() / times.sum()) + np.log(2))
            gain = np.full(len(met), np.nan)
            gain[met] = ((knowing - plain) / times.mean())[met]
            gains.append(gain)
            row[count] = _gain(nats[-1], gain[met])
        families = [_one(each["taste"]) for each in known]
        share = np.array([1 / families.count(name) for name in families]) / len({*families})
        whole = share @ np.nan_to_num(np.array(gains))  # a pair that was never asked adds nothing
        rows[-1][count] = _gain(float(share @ nats), whole)
    return rows


def _gain(nats: float, each: Floats) -> str:
    return f"{nats:+.3f} {each.mean():+.3f} ± {each.std() / np.sqrt(len(each)):.3f}"


def learn_program(read: Read, spec: Spec) -> dict[str, Any]:
    """How the fitted score correlates with a program's taste on the pairs that are left.

    Means over voters, after 40 and 80 votes: named features alone at today's odds and at
    `BEFORE`, and the joint fit; 0 where these odds are not passed.
    """
    reward, rng = read.rewards[spec["program"]], np.random.default_rng(SEED)
    beta = _beta(reward)
    found: dict[str, list[list[float]]] = {}
    for _ in range(spec["voters"]):
        order = rng.permutation(len(reward))
        up = (rng.random(len(reward)) < special.expit(beta * reward)) & (reward != 0)
        said = np.where(reward == 0, 0, np.where(up, 1, -1))
        order = order[np.argsort(said[order] == 0, kind="stable")]  # those that differ come first
        rest = order[COUNTS[-1] :]
        for count in (COUNTS[1], COUNTS[-1]):
            rows = order[:count]
            votes = Votes(read.named[rows], *_sides(said[rows]))
            both = fit_joint(votes, read.prior, read.states[rows])
            named = _alike(read.named[rest] @ both.named.w, reward[rest])
            joint = _alike(both.moments(read.named[rest], read.states[rest])[0], reward[rest])
            odds = np.exp([both.named.log_factor, both.log_factor])
            found.setdefault(str(count), []).append(
                [named * (odds[0] > BEFORE), named * (odds[0] > BAYES_FACTOR_NEEDED),
                 joint * (odds[1] > BAYES_FACTOR_NEEDED)]
            )  # fmt: skip
    means = {count: np.mean(each, axis=0).tolist() for count, each in found.items()}
    return {"program": spec["program"], **means}


def _beta(reward: Floats) -> float:
    """β at which two votes on a pair that differs agree with probability `AGREEMENT`."""
    gap = reward[reward != 0]

    def above(log_beta: float) -> float:
        chance = special.expit(np.exp(log_beta) * gap)
        return float((chance**2 + (1 - chance) ** 2).mean()) - AGREEMENT

    return float(np.exp(optimize.brentq(above, -12, 12)))


def _alike(score: Floats, truth: Floats) -> float:
    """Correlation of differences, whose sides are arbitrary."""
    size = float(np.sqrt((score @ score) * (truth @ truth)))
    return float(score @ truth) / size if size else 0.0


def _by_class(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Means over the tastes of a class."""
    found = []
    kinds = [programs.TASTES[each["program"]][0] for each in cells]
    for kind in dict.fromkeys(kinds):
        mine = [each for each, own in zip(cells, kinds, strict=True) if own == kind]
        row = {"class": kind}
        for count in map(str, (COUNTS[1], COUNTS[-1])):
            before, now, joint = np.mean([each[count] for each in mine], axis=0)
            row[f"named, {BEFORE:g} : 1, {count}"] = f"{before:.3f}"
            row[f"named, {count}"] = f"{now:.3f}"
            row[f"joint, {count}"] = f"{joint:.3f}"
        found.append(row)
    return found


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
