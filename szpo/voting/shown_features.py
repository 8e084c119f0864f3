"""Differences between the shown texts of a step's comparisons, in the run's named features.

Entries of the dictionary are counted only if the installed dictionary counts as the recorded one.
The user's own features are counted only where they can be rebuilt
(`szpo.features.user_features.again`).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from szpo.errors import UsageError
from szpo.features import differences, user_features
from szpo.features.dictionary import Entry, Ratio, read_answer
from szpo.features.reading import Reading
from szpo.features.user_features import Pair, RatedEntry
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config, recorded_settings
from szpo.optim.named_features import NamedFeatures
from szpo.types import FEATURE_GRID, Comparison, Ints

SHARE: Final = "share of words"
"""The unit of entries that are bounded."""
ENOUGH: Final = 2
"""Spreads up to which a share of words counts in runs whose coordinates have names.

Their policies lie nats from the start and may say a word in every answer, up to tens of spreads of
it, where mostly only its presence is meant (experiments/LOG.md, 2026-11-27)."""


def entries_of(
    features: NamedFeatures,
    given: Sequence[str] = (),
    rate: user_features.Rate | None = None,
    rated: Mapping[str, Entry] | None = None,
) -> dict[str, Entry]:
    """The features of a run that can be counted here, by name, in the run's order.

    Where its coordinates have names, a share of words above `ENOUGH` spreads counts as so many.

    ``given``: the user's own features of this process. ``rated``: those with recorded ratings.
    """
    names = features.names
    counted = user_features.countable(names, features.own, features.dictionary, given, rate)
    counted |= rated or {}
    every = {name: counted[name] for name in names if name in counted}
    if not features.coordinates:
        return every
    scale = dict(zip(names, features.scales, strict=True))
    return {name: _with_bound(entry, scale[name]) for name, entry in every.items()}


def _with_bound(entry: Entry, scale: int) -> Entry:
    def count(reading: Reading) -> Ratio:
        words, of = entry.count(reading)
        return min(words * FEATURE_GRID, ENOUGH * scale * of), of * FEATURE_GRID

    return replace(entry, count=count) if entry.unit == SHARE else entry


def demand(features: NamedFeatures, entries: Collection[str]) -> None:
    """Refuse to go on unless ``entries`` holds every feature of the run."""
    users = [
        name
        for name, *_ in features.own
        if user_features.needs_giving(name) or user_features.is_judged(name)
    ]
    missing = [name for name in features.names if name not in entries]
    if any(name not in users for name in missing):
        raise UsageError(
            "the run's named features are of another version of the dictionary; go on with the "
            "szpo that began it"
        )
    if missing:
        raise _give_again(missing)


def demand_given(names: Collection[str], given: Collection[str] = ()) -> None:
    """Refuse to go on unless each of these features, if it must be given again, was given."""
    if missing := [
        name for name in names if user_features.needs_giving(name) and name not in given
    ]:
        raise _give_again(missing)


def _give_again(missing: Collection[str]) -> UsageError:
    return UsageError(
        "the run counts features of your own, and a record never runs code; give them again: "
        f"add{as_options(missing)} to the command (Tuner.resume(..., features=[...]))"
    )


def as_options(names: Collection[str]) -> str:
    """The command-line options that give these features of the user's own again."""
    return "".join(f" --feature {shlex.quote(name)}" for name in names)


def to_give_again(ledger: Ledger) -> list[str]:
    """The user's own features that must be given again for the run to go on, by name."""
    named = recorded_settings(ledger).features
    if named is None:
        return [name for name in not_drawn(ledger) if user_features.needs_giving(name)]
    counted = _countable(named)
    return [name for name, *_ in named.own if name not in counted]


def not_drawn(ledger: Ledger) -> tuple[str, ...]:
    """The user's own features that a run without coordinates is still to draw."""
    settings, config = recorded_settings(ledger), recorded_config(ledger)
    if settings.features is not None or not settings.idle or config is None:
        return ()
    return tuple(config.features.own)


def require_given(ledger: Ledger, given: Sequence[str]) -> None:
    """Refuse to go on unless the run's features can be counted with those given (`demand`)."""
    named = recorded_settings(ledger).features
    if named is not None:
        demand(named, _countable(named, given))
    else:
        demand_given(not_drawn(ledger), given)


def _countable(features: NamedFeatures, given: Sequence[str] = ()) -> set[str]:
    """The features that can be counted with those given; a judge's need not be given."""
    judged = {name for name, *_ in features.own if user_features.is_judged(name)}
    return {*entries_of(features, given), *judged}


def differences_of(
    features: NamedFeatures, comparisons: Sequence[Comparison], entries: Mapping[str, Entry]
) -> Ints:
    """The difference of each feature, plus less minus, in units of 2⁻¹² of its spread.

    The comparisons are of one step, as many for every direction. ``entries``: the features to
    count, by name, in the run's order.

    Returns:
        (K, N, entries), in the order of k and n; exact on any machine.
    """
    user_features.rate_ahead(entries.values(), pairs_of(comparisons))
    scale = dict(zip(features.names, features.scales, strict=True))
    scales, counted = [scale[name] for name in entries], list(entries.values())
    ordered = sorted(comparisons, key=lambda each: (each.k, each.n))
    rows = [
        differences.differences(
            [row.plus.text for row in each.rows],
            [row.minus.text for row in each.rows],
            [row.prompt.text for row in each.rows],
            scales,
            counted,
        )
        for each in ordered
    ]
    directions = len({each.k for each in ordered})
    return np.array(rows, dtype=np.int64).reshape(directions, -1, len(counted))


def pairs_of(comparisons: Sequence[Comparison]) -> list[Pair]:
    """The distinct pairs of prompt and answer in rows that differ, in order."""
    rows = [r for c in comparisons for r in c.rows if not r.identical]
    pairs = [(row.prompt.text, side.text) for row in rows for side in (row.plus, row.minus)]
    return list(dict.fromkeys(pairs))


def ratings_of(
    comparisons: Sequence[Comparison], entries: Mapping[str, Entry]
) -> dict[str, tuple[int, ...]]:
    """A judge's ratings of each of `pairs_of`, by the feature's name, for the record."""
    pairs = pairs_of(comparisons)
    return {
        name: tuple(entry.count(read_answer(*pair))[0] for pair in pairs)
        for name, entry in entries.items()
        if isinstance(entry, RatedEntry)
    }


def recorded(
    comparisons: Sequence[Comparison], ratings: Mapping[str, Sequence[int]]
) -> dict[str, Entry]:
    """Features with recorded ratings, which ask no judge; left out where the texts are others."""
    pairs = pairs_of(comparisons)
    return {
        name: user_features.judged(name, dict(zip(pairs, values, strict=True)))
        for name, values in ratings.items()
        if user_features.is_judged(name) and len(values) == len(pairs)
    }
