"""`szpo bench preferences`: how well fits to few votes of people predict left-out votes.

Each record of a preference file is a vote on two single answers. Of several votes on the same two
answers one is drawn, since effects that no feature covers are common to them. Fits of n votes are
scored on votes about other answers: *sparse* has the rule's own prior over named features and
score components, *ridge* a Gaussian prior over named features, *components* a Gaussian prior over
the default model's leading score components, *length* the sparse prior over the number of words.
No run of szpo made these answers: features are scaled by their spread in the file, without votes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import special

from szpo.data import preference_files
from szpo.data.pairs import Pair
from szpo.errors import UsageError
from szpo.features import dictionary
from szpo.optim import sparse_regression, vote_regression
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.vote_regression import Votes
from szpo.seeds import derive, generator
from szpo.types import Floats, Ints
from szpo_simulators.bench import default_model
from szpo_simulators.panels.asked import feature_values
from szpo_simulators.study import Spec, Study, interval

FITS: Final = ("sparse", "ridge", "components", "length")
VOTES: Final = (15, 30, 60, 120, 240)
LENGTH: Final = "length"
SPLITS, LEFT_OUT = 40, 300
"""Number of random splits, and left-out votes of each; all others may be fitted."""
TOKENS: Final = 96
"""Tokens of an answer from which scores are computed; later tokens are ignored."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """V votes as feature differences; each vote preferred the first of two answers."""

    named: Floats
    """(V, k): features of the preferred answer minus those of the other, in spreads."""
    components: Floats | None
    """(V, c): the same for score components; None without a model."""
    groups: Ints
    """(k + c,): group of each feature, −1 for each component."""
    length: int
    """Index of the feature that counts words."""
    item: Ints
    """(V,): index of the pair of answers; equal for votes about the same two answers."""

    def columns(self, fit: str) -> Floats:
        """Regressors (V, p) of the fit of this name."""
        if fit == "length":
            return self.named[:, [self.length]]
        if fit == "ridge" or self.components is None:
            return self.named
        if fit == "components":
            return self.components
        return np.concatenate([self.named, self.components], axis=1)


def main(
    file: Path,
    kind: str | None = None,
    model: bool = True,
    quick: bool = False,
    folder: Path = Path("runs/bench-preferences"),
) -> list[dict[str, Any]]:
    """Score fits of few recorded votes on votes about other answers.

    Args:
        file: Preferences, one vote per record; ties and unreadable records are left out.
        kind: The file's format, as named by `szpo pairs`.
        model: Also use score components of the default model; takes minutes.
        quick: Few splits; the result is no evidence.
        folder: Folder of finished cells and the table.
    """
    found = preference_files.read(file, kind, skip_bad=True)
    if (different := len({_answers(pair) for pair in found.pairs})) < 2 * LEFT_OUT and not quick:
        raise UsageError(f"{file}: {different} judged pairs; give {2 * LEFT_OUT}, or --quick")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    study = Study("preferences", folder / digest[:12], quick)
    judged = read_features(study, found.pairs, model=model)
    fits = [fit for fit in FITS if model or fit != "components"]
    specs: list[Spec] = [
        {"fit": fit, "votes": votes, "splits": 2 if quick else SPLITS}
        for fit in fits
        for votes in VOTES
    ]
    rows = [
        {**{key: row[key] for key in ("fit", "votes")}, **interval(row["gained"])}
        for row in study.cells("fits", specs, partial(score_fit, judged))
    ]
    study.console.print(
        f"{len(found.pairs)} votes on {judged.item.max() + 1} pairs of answers, {found.ties} ties "
        f"left out; sha256 of the file {digest}"
    )
    study.table(
        "nats a left-out vote above a coin's, mean over splits with its 95 % interval",
        rows, {head: head for head in rows[0]}, "preferences",
    )  # fmt: skip
    study.end()
    return rows


def read_features(study: Study, pairs: Sequence[Pair], *, model: bool) -> Judged:
    """The votes' features with the default model's groups, in units of their spread."""
    policy, named, _ = default_model.prepare(["model.device=cpu"], study.console.print)
    entries = [dictionary.BY_NAME[name] for name in named.names]
    texts = [(p.prompt.text, one.text) for p in pairs for one in (p.chosen, p.rejected)]
    number = {answers: i for i, answers in enumerate(dict.fromkeys(map(_answers, pairs)))}
    return Judged(
        named=_in_spreads(feature_values(entries, texts)),
        components=_in_spreads(_by_file(study, policy, pairs, named.components))
        if model
        else None,
        groups=np.array([*named.groups, *[-1] * (named.components if model else 0)]),
        length=named.names.index(LENGTH),
        item=np.array([number[_answers(pair)] for pair in pairs]),
    )


def score_fit(judged: Judged, spec: Spec) -> dict[str, list[float]]:
    """For each split the mean log-likelihood of a left-out vote minus log ½, nats."""
    x = judged.columns(spec["fit"])
    gained = []
    for split in range(spec["splits"]):
        draw = generator(derive(split, "split of recorded votes"))
        order = draw.permutation(len(x))
        one_each = order[np.unique(judged.item[order], return_index=True)[1]]
        votes = draw.permutation(one_each)
        left_out, fitted = votes[:LEFT_OUT], votes[LEFT_OUT:]
        chance = foretell(judged, spec["fit"], x[fitted[: spec["votes"]]], x[left_out])
        gained.append(float(np.log(2 * chance).mean()))
    return {"gained": gained}


def foretell(judged: Judged, fit: str, seen: Floats, asked: Floats) -> Floats:
    """Probability (n,) of each left-out vote, under the posterior given the seen votes.

    The logit is xᵀw, with w ~ N(ŵ, Σ) from the fit, so P ≈ σ(xᵀŵ/√(1 + πxᵀΣx/8))
    (MacKay, "The evidence framework applied to classification networks", Neural Computation 4,
    1992, section 2). It is mixed with ½ by the probability that the votes show no signal.
    """
    ones = np.ones(len(seen))
    votes = Votes(seen, ones, 0 * ones)
    found: sparse_regression.SparseFit | vote_regression.Fit
    if fit in ("ridge", "components"):
        found = vote_regression.fit(votes, vote_regression.Prior.flat(seen.shape[1]))
    else:
        groups = np.zeros(1, np.int64) if fit == "length" else judged.groups
        found = sparse_regression.fit_sparse(
            votes, SparsePrior(groups, np.full(len(groups), np.sqrt(2.0)))
        )
    variance = np.einsum("ni,ij,nj->n", asked, found.covariance, asked)
    told = special.expit(asked @ found.w / np.sqrt(1 + np.pi / 8 * variance))
    return np.asarray(found.signal * told + (1 - found.signal) / 2)


def _answers(pair: Pair) -> tuple[str, frozenset[str]]:
    return pair.prompt.text, frozenset((pair.chosen.text, pair.rejected.text))


def _in_spreads(values: Floats) -> Floats:
    """Differences (V, k) within pairs of rows (2V, k), over √½ of their root mean square."""
    gap = values[::2] - values[1::2]
    spread = np.sqrt((gap**2).mean(0) / 2)
    return np.asarray(gap / np.where(spread > 0, spread, 1.0))


def _by_file(study: Study, policy: Any, pairs: Sequence[Pair], count: int) -> Floats:
    """Leading scores (2V, count) of the answers, computed once and kept in the study's folder."""
    from szpo.models import loading

    file = study.folder / "scores.npy"
    if not file.exists():
        texts: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        of = [
            texts.setdefault(
                (
                    policy.encode(pair.prompt),
                    tuple(loading.answer_tokens(policy.loaded, answer)[:TOKENS]),
                ),
                len(texts),
            )
            for pair in pairs
            for answer in (pair.chosen, pair.rejected)
        ]
        scores = policy.whitened_scores(list(texts))[:, :count]
        study.folder.mkdir(parents=True, exist_ok=True)
        np.save(file, scores[of])
    return np.asarray(np.load(file, allow_pickle=False))
