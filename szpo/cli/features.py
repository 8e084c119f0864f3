"""Commands that study preferences: weights of named features, and clusters of panelists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import typer
from scipy.special import expit

from szpo.analysis import features as named
from szpo.analysis.feature_weights import (
    RIDGE,
    FeatureVotes,
    Taste,
    Ties,
    fit_panelists,
    fit_taste,
    misses,
    read_votes,
)
from szpo.analysis.taught import USUAL
from szpo.cli import console, run_paths
from szpo.errors import RunError, UsageError
from szpo.ledger.database import Ledger
from szpo.metrics import Share
from szpo.types import Comparison, Floats
from szpo.visible_text import visible

if TYPE_CHECKING:
    from szpo.analysis.taste_clusters import Clusters


def features(
    run: str | None = run_paths.RUN,
    chosen: str = typer.Option(
        USUAL,
        "--features",
        help="Names, separated by commas; an argument after a colon (keyword:sea+sun), a comma "
        'inside one as \\, and "all" for the whole dictionary.',
    ),
    listing: bool = typer.Option(False, "--list", help="List the features that there are."),
    each: bool = typer.Option(False, "--each", help="Also print every panelist's weights."),
    ties: str = typer.Option("half", "--ties", help="half: half a vote each way; or davidson."),
    ridge: float = typer.Option(RIDGE, "--ridge", help="Prior precision of a weight; above 0."),
    wrong: int = typer.Option(
        3, "--wrong", min=0, help="Show so many votes that the features get most wrong."
    ),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Fit how much named features of the answers decide a run's votes."""
    if listing and as_json:
        return console.emit(named.meanings())
    if listing:
        return console.table(("feature", "unit (group)"), [*named.meanings().items()])
    if ties not in get_args(Ties):
        raise UsageError(f"--ties {ties} is neither half nor davidson")
    if not 0 < ridge < float("inf"):
        raise UsageError(f"--ridge {ridge}: give a number above 0")
    asked = named.parse(chosen)
    with run_paths.look(run_paths.find(run, folder)) as ledger:
        votes = read_votes(ledger, asked)
        names = [feature.name for feature in asked]
        if not votes.x.any():
            raise RunError(
                f"{', '.join(names)}: the same on both sides of every comparison; name features "
                "in which answers differ"
            )
        found = fit_taste(votes, seed=ledger.root_seed, ridge=ridge, ties=cast(Ties, ties))
        against = [
            _describe_miss(votes, found, i, ledger.comparison(votes.comparisons[i]))
            for i in misses(votes, found.foretold)[:wrong]
        ]
    panelists = fit_panelists(votes, found) if each else {}
    if as_json:
        document = {
            "features": [
                {**row, "deviation": float(scale), "more_won": _share(alone)}
                for row, scale, alone in zip(
                    _weights(names, found.weights, found.low, found.high),
                    found.scale,
                    found.alone,
                    strict=True,
                )
            ],
            **{key: getattr(found, key) for key in ("votes", "ties", "panelists", "separable")},
            "intervals_over": "panelists" if found.clustered else "votes",
            "held_out": _share(found.held_out),
            "wrong": against,
            "unlike_p": found.heterogeneity_p,
            "nu": found.nu,
        }
        if each:
            document["by_panelist"] = {
                who: {"votes": count, "features": _weights(names, *own)}
                for who, (count, *own) in panelists.items()
            }
        console.emit(document)
        return
    _show(names, found)
    if each:
        console.say()
        console.table(
            ("panelist", "votes", *names),
            [(who, count, *map(_format_weight, *own)) for who, (count, *own) in panelists.items()],
        )
        console.say("pulled towards the panel's weights, by a prior of one logit around them")
    for one in against:
        console.say(f"\n{one['panelist']} preferred, {one['chance']:.0%} likely by these features")
        for row in one["rows"][:ROWS]:
            console.say(f"  + {_one_line(row['preferred'])}")
            console.say(f"  − {_one_line(row['other'])}")
        if len(one["rows"]) > ROWS:
            console.say(f"  … and {len(one['rows']) - ROWS} pairs more (--json)")
    if against:
        console.say("\nwhat these have in common may be a feature that lacks: name it, ask again")


ROWS: Final = 2
"""Pairs shown of a vote on a batch."""
WIDTH: Final = 160


def _one_line(text: str) -> str:
    return shorten(visible(text), WIDTH, placeholder=" …")


def _describe_miss(
    votes: FeatureVotes, found: Taste, i: int, comparison: Comparison | None
) -> dict[str, Any]:
    """A vote that the features foretell wrongly: how likely it was, and the texts that differ."""
    side = votes.y[i] > 0.5
    rows = [row for row in comparison.rows if not row.identical] if comparison else []
    return {
        "comparison": votes.comparisons[i],
        "panelist": votes.panelists[i],
        "chance": float(expit(found.foretold[i] if side else -found.foretold[i])),
        "rows": [
            {"prompt": row.prompt.text, "preferred": good.text, "other": bad.text}
            for row in rows
            for good, bad in [(row.plus, row.minus) if side else (row.minus, row.plus)]
        ],
    }


def clusters(
    run: str | None = run_paths.RUN,
    chosen: str = typer.Option(
        USUAL, "--features", help="Features in which tastes may differ, as in szpo features."
    ),
    folder: Path = run_paths.FOLDER,
    as_json: bool = console.AS_JSON,
) -> None:
    """Test whether a run's votes come from one taste or from several, and whose is which."""
    with run_paths.look(run_paths.find(run, folder)) as ledger:
        found, names = find_tastes(ledger, chosen)
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
        console.say("(no comparison was answered by two; by the fitted tastes:)")
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
            f"--cluster {cluster}: there are {len(groups)} clusters; see: szpo clusters"
        )
    return [member["panelist"] for member in groups[cluster - 1]["members"]]


SAYS: Final = {
    "several": "{groups} tastes: panelists differ (p = {p:.3f}), and knowing whose taste it is "
    "predicts votes better, by {more:.3f} nats a vote",
    "sharpness": "one taste, with different sharpness: panelists differ (p = {p:.3f}), but "
    "their clusters prefer the same features",
    "unlike": "panelists differ in their tastes (p = {p:.3f}), but no clusters of them predict "
    "votes better than one taste does; see szpo features --each",
    "one": "one taste: no sign that panelists differ (p = {p:.3f}); two opposed halves would have "
    "been seen with probability {power:.2f}",
    "few": "too few votes to tell: no sign that panelists differ (p = {p:.3f}), but even two "
    "opposed halves would have been seen with probability {power:.2f} only; ask for more votes",
}
"""The sentence for each verdict."""


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


def _show(names: Sequence[str], found: Taste) -> None:
    console.table(
        ("feature", "weight", "95 % interval", "standard deviation", "wins with more"),
        [
            (
                name,
                _number(found.weights[i]),
                _interval(found.low[i], found.high[i]),
                float(found.scale[i]),
                _percent(found.alone[i]),
            )
            for i, name in enumerate(names)
        ],
    )
    console.say(
        "weight: change in log-odds of a vote for one standard deviation more of the feature"
    )
    over = (
        f"intervals over {found.panelists} panelists"
        if found.clustered
        else "intervals over votes, as if all panelists were identical"
    )
    tied = f" ({console.count(found.ties, 'tie')})" if found.ties else ""
    console.say(f"{console.count(found.votes, 'vote')}{tied}; {over}")
    if found.held_out.of:
        console.say(f"votes on other comparisons predicted: {_percent(found.held_out)}")
    if found.heterogeneity_p == found.heterogeneity_p:
        says = (
            "panelists differ in these tastes"
            if found.heterogeneity_p < 0.05
            else ("no sign that panelists differ in these tastes")
        )
        console.say(f"{says} (p = {found.heterogeneity_p:.3f}); one by one: --each")
    for name, scale in zip(names, found.scale, strict=True):
        if not scale:
            console.warn(f"{name} is the same on both sides of every comparison: it has no weight")
    if found.separable:
        console.warn(
            "some weights predict every vote, so only the ridge keeps them finite: their signs "
            "say something, their sizes and intervals little; give more votes or fewer features"
        )


def _weights(
    names: Sequence[str], weights: Floats, lows: Floats, highs: Floats
) -> list[dict[str, Any]]:
    return [
        {"feature": name, "weight": float(weight), "low": float(low), "high": float(high)}
        for name, weight, low, high in zip(names, weights, lows, highs, strict=True)
    ]


def _share(one: Share) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "of": one.of}


def _percent(one: Share) -> str:
    if one.value is None:
        return "–"
    return f"{one.value:.0%} ({one.low:.0%} to {one.high:.0%}) of {one.of:g}"


def _format_weight(weight: float, low: float, high: float) -> str:
    return "–" if weight != weight else f"{weight:+.2f} ({low:+.2f} to {high:+.2f})"


def _number(value: float) -> str:
    return "–" if value != value else f"{value:+.2f}"


def _interval(low: float, high: float) -> str:
    return "–" if low != low else f"{low:+.2f} to {high:+.2f}"
