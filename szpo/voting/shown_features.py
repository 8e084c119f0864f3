"""What the shown texts of a step's comparisons differ in, by the named features of the run.

Entries of the dictionary are counted with the dictionary here, if it is the recorded one; the
user's own only where they can be had (`szpo.features.own.again`).
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from szpo.errors import UsageError
from szpo.features import dictionary, differences, own
from szpo.features.dictionary import Entry, read_answer
from szpo.features.own import Judged, Pair
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim.named_features import NamedFeatures
from szpo.types import Comparison, Ints


def entries_of(
    features: NamedFeatures,
    given: Sequence[str] = (),
    rate: own.Rate | None = None,
    rated: Mapping[str, Entry] | None = None,
) -> dict[str, Entry]:
    """The features of a run that can be counted here, by name, in the run's order.

    Args:
        features: Those of the run.
        given: Those of the user's own that the user wrote in this process.
        rate: Asks the run's judge.
        rated: What a judge rated, as recorded.
    """
    same = dictionary.counts_alike(features.dictionary)
    mine = {**own.again(features.own, given, rate), **(rated or {})}
    theirs = {name for name, *_ in features.own}
    known = dictionary.BY_NAME if same else {}
    counted = {**{n: known[n] for n in features.names if n in known and n not in theirs}, **mine}
    return {name: counted[name] for name in features.names if name in counted}


def demand(features: NamedFeatures, entries: Collection[str]) -> None:
    """Refuse to go on with a run some of whose features cannot be counted here.

    Raises:
        UsageError: the dictionary is another one, or features of the user's own are not given.
    """
    theirs = [name for name, *_ in features.own]
    missing = [name for name in features.names if name not in entries]
    if any(name not in theirs for name in missing):
        raise UsageError(
            "the run's named features are of another version of the dictionary; go on with the "
            "szpo that began it"
        )
    if missing:
        raise UsageError(
            "the run counts features of your own, and a record never runs code; give them again: "
            f"add{as_options(missing)} to the command (Tuner.resume(..., features=[...]))"
        )


def as_options(names: Collection[str]) -> str:
    """How a command names features of the user's own once more."""
    return "".join(f" --feature {shlex.quote(name)}" for name in names)


def to_give_again(ledger: Ledger) -> list[str]:
    """The features without which the run does not go on: not what the record or a judge gives."""
    named = recorded_settings(ledger).features
    if named is None:
        return []
    counted = _can_be_had(named)
    return [name for name, *_ in named.own if name not in counted]


def require_given(ledger: Ledger, given: Sequence[str]) -> None:
    """Refuse what asks more of a run that could not go on with what the user gave (`demand`)."""
    named = recorded_settings(ledger).features
    if named is not None:
        demand(named, _can_be_had(named, given))


def _can_be_had(features: NamedFeatures, given: Sequence[str] = ()) -> set[str]:
    """What can be counted with what the user gave; what a judge rates needs no word of theirs."""
    judged = {name for name, *_ in features.own if own.is_judged(name)}
    return {*entries_of(features, given), *judged}


def differences_of(
    features: NamedFeatures, comparisons: Sequence[Comparison], entries: Mapping[str, Entry]
) -> Ints:
    """Mean of plus less mean of minus of each feature, in units of 2⁻¹² of its spread.

    Args:
        features: Those of the run.
        comparisons: Of one step, the same number for every direction.
        entries: What is counted, by name, in the run's order.

    Returns:
        (K, N, entries), in the order of k and n; exact on any machine.

    Raises:
        RunError: a judge gives no rating.
    """
    own.rate_ahead(entries.values(), pairs_of(comparisons))
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
    """What is counted of comparisons: each prompt with an answer once, in their order."""
    rows = [r for c in comparisons for r in c.rows if not r.identical]
    pairs = [(row.prompt.text, side.text) for row in rows for side in (row.plus, row.minus)]
    return list(dict.fromkeys(pairs))


def ratings_of(
    comparisons: Sequence[Comparison], entries: Mapping[str, Entry]
) -> dict[str, tuple[int, ...]]:
    """What a judge made of each of `pairs_of`, by the feature's name, for the record."""
    pairs = pairs_of(comparisons)
    return {
        name: tuple(entry.count(read_answer(*pair))[0] for pair in pairs)
        for name, entry in entries.items()
        if isinstance(entry, Judged)
    }


def recorded(
    comparisons: Sequence[Comparison], ratings: Mapping[str, Sequence[int]]
) -> dict[str, Entry]:
    """The features of recorded ratings, which ask no judge; none where the texts are others."""
    pairs = pairs_of(comparisons)
    return {
        name: own.judged(name, dict(zip(pairs, values, strict=True)))
        for name, values in ratings.items()
        if own.is_judged(name) and len(values) == len(pairs)
    }
