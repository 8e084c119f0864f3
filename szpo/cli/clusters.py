"""Clusters of panelists by their tastes, and who is in which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from szpo.analysis import features as named
from szpo.analysis.named_votes import USUAL, read_votes
from szpo.cli import console, run_paths
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.metrics import Share

if TYPE_CHECKING:
    from szpo.analysis.taste_clusters import Clusters


SAYS: Final = {
    "several": "{groups} tastes: panelists differ (p = {p:.3f}), and knowing whose taste it is "
    "predicts votes better, by {more:.3f} nats a vote",
    "sharpness": "one taste, with different sharpness: panelists differ (p = {p:.3f}), but "
    "their clusters prefer the same features",
    "unlike": "panelists differ in their tastes (p = {p:.3f}), but no clusters of them predict "
    "votes better than one taste does; see --features",
    "one": "one taste: no sign that panelists differ (p = {p:.3f}); two opposed halves would have "
    "been seen with probability {power:.2f}",
    "few": "too few votes to tell: no sign that panelists differ (p = {p:.3f}), but even two "
    "opposed halves would have been seen with probability {power:.2f} only; ask for more votes",
}
"""The sentence for each verdict."""


def show(path: Path, chosen: str | None, *, as_json: bool) -> None:
    """Test whether a run's votes come from one taste or from several, and whose is which."""
    with run_paths.look(path) as ledger:
        found, names = find_tastes(ledger, chosen or USUAL)
    groups = _groups(found, names)
    if as_json:
        console.emit(
            {
                "verdict": found.verdict,
                "says": _describe(found),
                "p": found.p,
                "power": found.power,
                "votes": found.votes,
                "panelists": len(found.names),
                "left_out_gain": found.gains,
                "left_out_gain_stderr": found.errors,
                "clusters": groups,
                "cosines": found.cosines.tolist(),
                "within": _share(found.within),
                "between": _share(found.between),
                "expected_agreement": found.expected.tolist(),
            }
        )
        return
    console.say(_describe(found))
    console.say()
    console.table(
        ("cluster", "panelists", *names),
        [
            (i + 1, len(group["members"]), *(_number(w) for w in group["weights"].values()))
            for i, group in enumerate(groups)
        ],
    )
    console.say(
        "weights: change in log-odds of a vote for one standard deviation more of the feature"
    )
    if len(groups) < 2:
        return
    for i, group in enumerate(groups):
        who = ", ".join(f"{m['panelist']} ({m['sure']:.0%})" for m in group["members"])
        console.say(f"cluster {i + 1}: {who}")
    console.say(f"agreement within clusters:  {_percent(found.within)} pairs of votes")
    console.say(f"agreement between clusters: {_percent(found.between)} pairs of votes")
    if not found.within.of + found.between.of:
        console.say("(no pair had votes of two; by the fitted tastes:)")
    inside = found.expected.diagonal().mean()
    across = (found.expected.sum() - found.expected.trace()) / (len(groups) ** 2 - len(groups))
    console.say(f"by the fitted tastes: {inside:.0%} within, {across:.0%} between")


def find_tastes(ledger: Ledger, chosen: str) -> tuple[Clusters, list[str]]:
    """Find the clusters of taste in a panel, and the features in which its answers differ."""
    from szpo.analysis import taste_clusters as study

    asked = named.parse(chosen)
    votes = read_votes(ledger, asked)
    names = [feature.name for feature, x in zip(asked, votes.x.T, strict=True) if x.any()]
    return study.find_clusters(votes, seed=ledger.root_seed), names


def members_of(ledger: Ledger, chosen: str | None, cluster: int) -> list[str]:
    """The panelists of a cluster, by pseudonym."""
    found, names = find_tastes(ledger, chosen or USUAL)
    if found.verdict != "several":
        raise UsageError(
            f"--cluster {cluster}: the votes do not show several tastes ({_describe(found)})"
        )
    groups = _groups(found, names)
    if cluster > len(groups):
        raise UsageError(
            f"--cluster {cluster}: there are {len(groups)} clusters; see: szpo taste --several"
        )
    return [member["panelist"] for member in groups[cluster - 1]["members"]]


def _describe(found: Clusters) -> str:
    k = len(found.found.shares)
    more = found.gains[k - 1] - found.gains[0]
    return SAYS[found.verdict].format(groups=k, p=found.p, power=found.power, more=more)


def _groups(found: Clusters, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "members": [
                {"panelist": found.names[g], "sure": float(found.found.posterior[g, k])}
                for g in (found.found.members == k).nonzero()[0]
            ],
            "weights": dict(zip(names, map(float, found.found.weights[k]), strict=True)),
        }
        for k in range(len(found.found.shares))
    ]


def _share(one: Share) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "of": one.of}


def _percent(one: Share) -> str:
    if one.value is None:
        return "–"
    return f"{one.value:.0%} ({one.low:.0%} to {one.high:.0%}) of {one.of:g}"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:+.2f}"
