"""`szpo bench preferences`: how well fits to few votes of people foretell votes on other prompts.

Each record of a preference file is a vote on two single answers. An answer may stand in several
pairs, so prompts are split, not pairs: half of them fix scales, groups and priors, the other half
reports. There a third of the prompts is left out; the others are voted on in turns, on each pair
once before any gets a second vote. Fits are the rule's own, to rows of one pair; no run of szpo
made these answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import special

from szpo.data import preference_files
from szpo.data.preference_formats import Pair
from szpo.errors import UsageError
from szpo.features import dictionary, differences
from szpo.optim.joint_fit import fit_joint
from szpo.optim.sparse_prior import SparsePrior, group_features
from szpo.optim.vote_regression import Votes
from szpo.seeds import derive, generator
from szpo.types import Floats, Ints
from szpo_simulators.bench_study import REPORTED, Study
from szpo_simulators.cell_records import Spec
from szpo_simulators.summary import bootstrap

FEWEST: Final = 5
"""A feature is used if it differs in at least this many pairs."""
WORDS, DICTIONARY, LIKELY, JOINT = FITS = (
    "number of words",
    "dictionary",
    "dictionary, number of words likely",
    "the same, and hidden states",
)
"""Regressors of each fit; the number of words is one of the dictionary's entries."""
WIDTHS: Final = ((1.0, 2.0, 4.0), (0.5, 1.0, 2.0), (0.25, 0.5, 1.0))
"""Prior widths to choose from, those of a run first."""
CHANCES: Final = (0.25, 0.5, 0.75, 0.9)
"""Probabilities to choose from that the one feature that matters is the number of words."""
PRIORS: Final[Sequence[Spec]] = [
    {"fit": fit, "widths": widths, "words": words}
    for fit in FITS
    for words in (CHANCES if fit in (LIKELY, JOINT) else (None,))
    for widths in (WIDTHS[:1] if fit == JOINT else WIDTHS)
]
VOTES: Final = (15, 30, 60, 120, 240, 480)
SPLITS: Final = 60


@dataclass(frozen=True, slots=True, eq=False)
class VoteDifferences:
    """V votes as differences of answers: the preferred one minus the other."""

    named: Floats
    """(V, k): differences in named features."""
    length: int
    """Index of the feature that counts words."""
    item: Ints
    """(V,): index of the pair of answers; equal for votes about the same two answers."""
    prompt: Ints
    """(V,): index of the prompt."""
    states: Floats | None = None
    """(V, width): differences of hidden states; None without a model."""

    def half(self, reported: bool) -> Ints:
        """The prompts of the half that reports, or of the one that fixes priors."""
        draw = generator(derive(0, "halves of the prompts"))
        return np.array_split(draw.permutation(np.unique(self.prompt)), 2)[reported]

    def split(self, seed: int) -> tuple[Ints, Ints]:
        """The votes on two thirds of a half's prompts, in the order of reading; those on the rest.

        Seeds from `REPORTED` split the half that reports.
        """
        draw = generator(derive(seed, "split of recorded votes"))
        prompts = draw.permutation(self.half(seed >= REPORTED))
        rest, read = np.split(prompts, [len(prompts) // 3])
        votes = draw.permutation(np.flatnonzero(np.isin(self.prompt, read)))
        seen = pd.DataFrame({"item": self.item[votes], "prompt": self.prompt[votes]})
        seen["again"] = seen.groupby("item").cumcount()
        turn = seen.groupby(["prompt", "again"]).cumcount()
        return votes[np.lexsort((turn, seen["again"]))], np.flatnonzero(np.isin(self.prompt, rest))

    @property
    def fixed_pairs(self) -> Ints:
        """A vote on each pair of answers of the half that fixes priors."""
        pairs = np.unique(self.item, return_index=True)[1]
        return np.asarray(pairs[np.isin(self.prompt[pairs], self.half(reported=False))])

    def dense(self, prior: Spec) -> Floats | None:
        """Differences of states (V, width), in one scale by the fixed half; None: not fitted."""
        if self.states is None or prior["fit"] != JOINT:
            return None
        size = (self.states[self.fixed_pairs] ** 2).sum(1).mean()
        return np.asarray(self.states / np.sqrt(size))

    def regressors(self, prior: Spec) -> tuple[Floats, SparsePrior]:
        """Regressors (V, p) of a fit and their prior, scaled and grouped by the fixed half.

        Features that differ there in few pairs are left out.
        """
        pairs = self.fixed_pairs
        used = np.flatnonzero((self.named[pairs] != 0).sum(0) >= FEWEST)
        if prior["fit"] == WORDS:
            used = used[used == self.length]
            if not len(used):
                raise UsageError(f"votes: the {WORDS} differs in fewer than {FEWEST} pairs")
        x = self.named[:, used]
        x = x / np.sqrt((x[pairs] ** 2).mean(0) / 2)
        groups = group_features(x[pairs].T @ x[pairs])
        found = SparsePrior(groups, np.full(len(groups), np.sqrt(2.0)), widths=prior["widths"])
        if prior["words"]:
            even, words = found.features(), used == self.length
            others = even * (1 - prior["words"]) / (1 - even[words])
            found = replace(found, chances=np.where(words, prior["words"], others))
        return x, found


def main(
    file: Path,
    kind: str | None = None,
    model: bool = True,
    quick: bool = False,
    folder: Path = Path("runs/bench-preferences"),
) -> list[dict[str, Any]]:
    """Score fits of few recorded votes on votes about other prompts.

    Args:
        file: Preferences, one vote per record; ties and unreadable records are left out.
        kind: The file's format, as named by `szpo pairs`.
        model: Also fit hidden states of the default model; takes minutes.
        quick: Few splits; the result is no evidence.
        folder: Folder of finished cells and the table.
    """
    found = preference_files.read(file, kind, skip_bad=True)
    judged = read_features(found.pairs)
    parts = [range(first, first + (2 if quick else SPLITS)) for first in (0, REPORTED)]
    splits = [judged.split(seed) for part in parts for seed in part]
    fewest, rest = (min(len(each[i]) for each in splits) for i in (0, 1))
    if fewest < VOTES[0 if quick else -1] or not rest:
        raise UsageError(
            f"{file}: too few prompts to split: {fewest} votes to read in a third of them; "
            f"give a file with {VOTES[-1]}, or with {VOTES[0]} and --quick"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    study = Study("preferences", folder / digest[:12], quick)
    if model:
        pairs = [(p.prompt, p.chosen.text, p.rejected.text) for p in found.pairs]
        judged = replace(judged, states=study.states(pairs))
    votes = [each for each in VOTES if each <= fewest]
    work = partial(score_fit, judged)
    specs = [
        [{**prior, "votes": votes, "seeds": [*part]} for part in parts]
        for prior in PRIORS
        if model or prior["fit"] != JOINT
    ]
    tried = study.cells("choosing priors", [each for each, _ in specs], work)
    best = {row["fit"]: i for i, row in sorted(enumerate(tried), key=lambda one: one[1]["mean"])}
    rows = study.cells("reporting them", [specs[i][1] for i in sorted(best.values())], work)
    study.console.print(
        f"{len(found.pairs)} votes on {judged.item.max() + 1} pairs of answers to "
        f"{judged.prompt.max() + 1} prompts, {found.ties} ties left out; sha256 {digest}"
    )
    heads = {"fit": "fit", "widths": "widths", "chance of words": "words", "nats a vote": "mean"}
    study.table("priors on the half that fixes them, mean over numbers of votes", tried, heads)
    title = "votes on left-out prompts: share right, nats a vote above a coin's"
    words = np.array(rows[0]["nats"])
    for part, above in (("preferences", 0 * words), (None, words)):
        table = [tabulate(row, above) for row in rows]
        study.table(title, table, {head: head for head in table[0]}, part)
        title = f"the same, nats above the {WORDS}"
    study.end()
    return rows


def tabulate(row: Mapping[str, Any], above: Floats) -> dict[str, str]:
    """A fit's share right and nats a vote, less those ``above``, by number of votes.

    With half a 95 % interval of the nats over prompts.
    """
    cells = {}
    for votes, right, nats, less in zip(
        row["votes"], row["right"], row["nats"], above, strict=True
    ):
        found = bootstrap(np.subtract(nats, less).tolist(), row["asked"])
        half = (found["high"] - found["low"]) / 2
        share = sum(right) / sum(row["asked"])
        cells[str(votes)] = f"{share:.0%} {found['mean']:+.3f}±{half:.3f}".replace("0.", ".")
    return {"regressors / votes": row["fit"], **cells}


def read_features(pairs: Sequence[Pair]) -> VoteDifferences:
    """The votes' differences in the entries that hold for these prompts."""
    asked = [pair.prompt.text for pair in pairs]
    entries = dictionary.holding(asked)
    texts = [(p.prompt.text, one.text) for p in pairs for one in (p.chosen, p.rejected)]
    values = differences.values(texts, entries)

    def number(each: Sequence[Any]) -> Ints:
        return pd.factorize(pd.Series(each, dtype=object))[0]

    return VoteDifferences(
        named=values[::2] - values[1::2],
        length=[each.name for each in entries].index("length"),
        item=number([(p.prompt.text, frozenset((p.chosen.text, p.rejected.text))) for p in pairs]),
        prompt=number(asked),
    )


def score_fit(judged: VoteDifferences, spec: Spec) -> dict[str, Any]:
    """What fits of each number of votes foretell of left-out prompts, over splits.

    Of each prompt the left-out votes (P,), and of these, by number of fitted votes, how many were
    right and the sum of log-likelihood minus log ½, nats (n, P). ``mean`` is nats a vote.
    """
    (x, prior), dense = judged.regressors(spec), judged.dense(spec)
    count = judged.prompt.max() + 1
    asked, right, nats = np.zeros(count), *np.zeros((2, len(spec["votes"]), count))
    for seed in spec["seeds"]:
        fitted, left_out = judged.split(seed)
        of = judged.prompt[left_out]
        asked += np.bincount(of, minlength=count)
        for i, votes in enumerate(spec["votes"]):
            first = fitted[:votes]
            states = None if dense is None else (dense[first], dense[left_out])
            chance = foretell(prior, x[first], x[left_out], states)
            right[i] += np.bincount(of, (np.sign(chance - 0.5) + 1) / 2, count)
            nats[i] += np.bincount(of, np.log(2 * chance), count)
    met = asked > 0
    return {
        "mean": float((nats.sum(1) / asked.sum()).mean()), "asked": asked[met].tolist(),
        "right": right[:, met].tolist(), "nats": nats[:, met].tolist(),
    }  # fmt: skip


def foretell(
    prior: SparsePrior, seen: Floats, asked: Floats, states: tuple[Floats, Floats] | None = None
) -> Floats:
    """Probability (n,) of each left-out vote, under the posterior given the seen votes.

    The logit has the posterior's mean m and variance v, so P ≈ σ(m/√(1 + πv/8))
    (MacKay, "The evidence framework applied to classification networks", Neural Computation 4,
    1992, section 2). It is mixed with ½ by the probability that the votes show no signal.
    ``states``: differences of hidden states of both; None: features alone.
    """
    ones = np.ones(len(seen))
    known, asked_for = (None, None) if states is None else states
    found = fit_joint(Votes(seen, ones, 0 * ones), prior, known)
    mean, variance = found.moments(asked, asked_for)
    told = special.expit(mean / np.sqrt(1 + np.pi / 8 * variance))
    return np.asarray(found.signal * told + (1 - found.signal) / 2)
