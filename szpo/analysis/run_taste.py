"""The taste of a run's votes: from its fit on named features, and bounded by what was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from szpo import taste
from szpo.analysis import in_words, taught_taste, vote_rows
from szpo.analysis.in_words import InWords
from szpo.config.optimizer import fitting
from szpo.errors import RunError, UsageError
from szpo.features.dictionary import Entry, ratios
from szpo.ledger import theta
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim import regression
from szpo.optim.all_votes import fit_named, refit
from szpo.optim.joint_fit import JointFit
from szpo.optim.named_features import NamedFeatures
from szpo.optim.regression import Findings
from szpo.optim.state_regression import GRID
from szpo.replay import replay
from szpo.replay.record_checks import Broken, Examination
from szpo.runs import budget
from szpo.taste import Direction, Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Comparison, Ints
from szpo.voting import shown_features, shown_states, withdrawals
from szpo.voting.recorded_step import read_step

LEAST: Final = 1 / FEATURE_GRID
"""Explanations below this probability are left out."""
FOLLOWED: Final = 0.1
"""Share of what votes are about from which on hidden states are part of a taste."""
SLACK: Final[dict[str, int]] = {"verdicts": 0, "people": 0, "direction": 64}
"""Units by which integers of a taste may differ from what its votes give, where it is not one.

The range and mean of a direction add up the roundings of its weights."""


def read(
    ledger: Ledger,
    given: Sequence[str] = (),
    *,
    present: bool = False,
    before: int = 2**62,
    only: frozenset[str] | None = None,
    anyway: bool = False,
) -> tuple[Taste, InWords | None]:
    """The taste of a run's votes, and what the dictionary says of its direction, if it has one.

    ``given``: the user's own features that are code, anew. ``present``: the fit as it is now must
    show a taste, not only one before. ``before``: by what was on record before this event.
    ``only``: the taste of these panelists, by pseudonym. ``anyway``: as far as the votes say, also
    where they do not show one yet.

    Raises:
        UsageError: its coordinates have no names, or nobody has voted.
        RunError: its votes show no taste that has a name.
    """
    settings, where = fitting(recorded_settings(ledger)), ledger.path.name
    named = settings.features
    if named is None:
        raise UsageError(
            f"{where}: a taste is of named features, and its coordinates have none; "
            "szpo taste --features NAMES fits those that you name"
        )
    sql = "SELECT count(*) AS steps FROM events WHERE kind = 'step' AND event < ?"
    until = ledger.query(sql, (before,))[0]["steps"]
    state = replay.replay_state(ledger, settings, until)
    left = withdrawals.votes_left(ledger, settings, state, before, only)
    carried = refit(settings, state.carried, left)
    found = regression.findings_of(settings, carried)
    fit = carried.fit or fit_named(settings, carried)
    was_shown = found.shown
    if present or found.chance >= taught_taste.LIKELY:
        found = replace(found, factor=fit.log_factor)
    if not (found.shown or anyway):
        since = "show no taste any more" if was_shown else "show no taste yet"
        more = budget.describe_more(ledger)
        raise RunError(
            f"{where}: its votes {since} {taught_taste.describe_unshown(found)}; "
            f"let its panel vote more{': ' * bool(more)}{more}"
        )
    dense = carried.states is not None and fit.states is not None
    if not (dense or anyway) and found.unnamed + found.chance >= taught_taste.LIKELY:
        raise RunError(
            f"{where}: its votes show a taste that is not named yet; add a feature that names it "
            "(features.add)"
        )
    cast = vote_rows.read_judged(ledger, until, before, only)
    entries = shown_features.entries_of(named, given)
    claims = likely_claims(found)
    people = {row["pseudonym"] for row in ledger.query(
        "SELECT pseudonym FROM panelists WHERE kind = 'person'")}  # fmt: skip
    features, explanations = explain(named, fit, cast.comparisons, entries)
    direction, words = None, None
    if carried.states is not None and fit.states is not None:
        model = (
            ledger.row["base_sha256"],
            str(ledger.spec.get("base", {}).get("name", "its model")),
        )
        direction, explanations = with_direction(
            model, named, fit, lambda w: [each.value for each in _along(ledger, named, w, cast)],
            features, explanations,
        )  # fmt: skip
        if direction is not None:
            shown = [
                each
                for step in range(until)
                for each in sorted(ledger.comparisons(step), key=lambda each: (each.k, each.n))
            ]
            x, apart = carried.votes.x[:, : len(named.names)], carried.states @ fit.states.w
            words = in_words.explain(x, apart, prompts_of(shown), named)
    by_texts = sum(each.chance for each in explanations if each.weights) / FEATURE_GRID
    if named.coordinates and by_texts < taught_taste.LIKELY:
        raise RunError(
            f"{where}: its votes follow the adapters themselves, {taught_taste.words(found)}, "
            "more than any feature of the texts; add a feature that counts it (features.add)"
        )
    names = {each.name for each in features}
    found_taste = Taste(
        features, explanations, claims, named.dictionary,
        tuple(each for each in named.own if each[0] in names),
        verdicts=len(cast.y), people=len(people.intersection(cast.panelist)),
        direction=direction,
        called="" if direction is None else taught_taste.read_name(ledger, before),
    )  # fmt: skip
    return found_taste, words


def prompts_of(comparisons: Sequence[Comparison]) -> list[str]:
    """The prompts of each comparison, as one text."""
    return ["\n".join(row.prompt.text for row in each.rows) for each in comparisons]


def likely_claims(found: Findings) -> tuple[tuple[str, int], ...]:
    """What is likely liked, in words, each with its probability in units of 2⁻¹²."""
    return tuple(
        (taught_taste.phrase_claim(each, found), round(FEATURE_GRID * each.chance))
        for each in found.taught or ()
        if each.chance >= taste.LIKELY
    )


def check_recorded(look: Examination) -> None:
    """Compute again the taste that each improvement was on, from the votes before it."""
    for event in look.ledger.events(theta.ADOPTED) if look.deep else ():
        body, begun = event["body"], event["body"]["begun"]
        when = f"the taste after {begun['steps']} steps"
        named = recorded_settings(look.ledger).features
        try:
            recorded = Taste.from_json(body["taste"])
        except UsageError as error:
            raise Broken("events", event["event"], str(error)) from None
        if recorded.sha256 != body["taste_sha256"]:
            raise Broken("events", event["event"], "taste_sha256 is not that of its taste")
        if named is None or not _is_of(recorded, named):
            raise Broken("events", event["event"], "its taste is of features that the run lacks")
        try:
            recorded.entries()
        except UsageError as error:
            look.notes.append(f"{when} is recorded, not recomputed ({error})")
            continue
        try:
            mine, _ = read(look.ledger, before=begun["event"])
        except RunError as error:
            raise Broken("events", event["event"], f"its taste is not there: {error}") from None
        same = _places(recorded) == _places(mine)
        if not same or not _is_near(recorded.to_json(), mine.to_json()):
            raise Broken("events", event["event"], "its taste is not what the votes before give")
        look.notes.append(f"{when} is recomputed from the votes")


def _is_of(found: Taste, named: NamedFeatures) -> bool:
    names = {each.name for each in found.features}
    return (
        found.dictionary == named.dictionary
        and names <= {*named.names}
        and found.own == tuple(each for each in named.own if each[0] in names)
    )


def _places(found: Taste) -> list[list[int]]:
    """The features that each explanation is about, which no rounding makes others."""
    return [[place for place, _ in each.weights] for each in found.explanations]


def _is_near(recorded: Any, mine: Any, slack: int = 1) -> bool:
    """Whether two tastes as JSON differ only by rounding."""
    if isinstance(recorded, dict) and isinstance(mine, dict):
        return recorded.keys() == mine.keys() and all(
            _is_near(value, mine[name], SLACK.get(name, slack)) for name, value in recorded.items()
        )
    if isinstance(recorded, list) and isinstance(mine, list):
        near = (_is_near(a, b, min(slack, 1)) for a, b in zip(recorded, mine, strict=False))
        return len(recorded) == len(mine) and all(near)
    if isinstance(recorded, int) and isinstance(mine, int):
        return abs(recorded - mine) <= slack
    return bool(recorded == mine)


def explain(
    named: NamedFeatures,
    joint: JointFit,
    comparisons: Sequence[Comparison],
    entries: dict[str, Entry],
) -> tuple[tuple[Feature, ...], tuple[Explanation, ...]]:
    """The features that explanations are about, and these; the rest together is no weight."""
    weighed: list[tuple[float, dict[int, int]]] = []
    for kept in joint.named.kept:
        chance = kept.chance * joint.kept
        if chance < LEAST:
            continue
        weights = {
            i: round(FEATURE_GRID * float(w))
            for i, w in zip(kept.support, kept.w, strict=True)
            if i < len(named.names)
        }
        weighed.append((chance, {i: w for i, w in weights.items() if w}))
    used = sorted({i for _, weights in weighed for i in weights})
    place = {i: p for p, i in enumerate(used)}
    about = [(chance, weights) for chance, weights in weighed if weights]
    explanations = [
        Explanation(
            max(1, round(FEATURE_GRID * chance)), tuple((place[i], w) for i, w in weights.items())
        )
        for chance, weights in about[: taste.MOST_EXPLANATIONS - 1]
    ]
    rest = FEATURE_GRID - sum(each.chance for each in explanations)
    if rest > 0:
        explanations.append(Explanation(rest, ()))
    texts = {(row.prompt.text, side.text) for each in comparisons for row in each.rows
             if not row.identical for side in (row.plus, row.minus)}  # fmt: skip
    shown_features.demand(named, entries)
    counted = [entries[named.names[i]] for i in used]
    values = np.array([
        [*map(taste.in_spreads, ratios(*pair, counted), [named.scales[i] for i in used])]
        for pair in sorted(texts)
    ]).reshape(len(texts), len(used))  # fmt: skip
    features = tuple(
        Feature(named.names[i], named.scales[i], *taste.bounds(column.tolist()),
                round(float(column.mean())))
        for i, column in zip(used, values.T, strict=True)
    )  # fmt: skip
    return features, tuple(explanations)


@dataclass(frozen=True, slots=True)
class Shown:
    """A shown answer and its value along a taste's direction, in units of 2⁻¹² logits."""

    value: int
    prompt: str
    text: str


def extremes(ledger: Ledger, found: Taste) -> tuple[tuple[Shown, ...], tuple[Shown, ...]]:
    """The shown answers that the direction of a run's taste likes most, and least, in order.

    At most one to each prompt; none where the taste has no direction.
    """
    named = recorded_settings(ledger).features
    if found.direction is None or named is None or named.states is None:
        return (), ()
    w = np.array(found.direction.weights, dtype=np.int64)
    return ends(_along(ledger, named, w, vote_rows.read_judged(ledger)))


def ends(answers: Iterable[Shown], count: int = 3) -> tuple[tuple[Shown, ...], tuple[Shown, ...]]:
    """The answers with the highest values, and the lowest, in order; one to each prompt."""
    ordered = sorted(answers, key=lambda each: (-each.value, each.prompt, each.text))

    def first(answers: Iterable[Shown]) -> tuple[Shown, ...]:
        own: dict[str, Shown] = {}
        for each in answers:
            own.setdefault(each.prompt, each)
        return tuple(own.values())[:count]

    return first(ordered), first(reversed(ordered))


def _along(
    ledger: Ledger, named: NamedFeatures, w: Ints, cast: vote_rows.CastVotes
) -> Iterator[Shown]:
    """Every text that was shown in the steps of these votes, once a step."""
    for step in sorted({each.step for each in cast.comparisons}):
        rounded = read_step(ledger, step).states(ledger, named).astype(np.int64)
        values = np.rint(rounded @ w / GRID).astype(np.int64).tolist()
        shown = shown_states.shown_of(ledger.comparisons(step))
        for value, (prompt, text) in zip(values, shown, strict=True):
            yield Shown(value, prompt.text, text)


def with_direction(
    model: tuple[str, str],
    named: NamedFeatures,
    joint: JointFit,
    along: Callable[[Ints], list[int]],
    features: tuple[Feature, ...],
    explanations: tuple[Explanation, ...],
) -> tuple[Direction | None, tuple[Explanation, ...]]:
    """The direction of states, with the explanations it is one of; it takes from what is left.

    Below a share of `FOLLOWED` named features stand alone: they are of texts of any model, and
    score beginnings of answers, so that each token gets credit of its own.

    ``model``: digest and name. ``along``: values of the shown texts along integer weights w
    (width,), in units of 2⁻¹² logits.
    """
    assert joint.states is not None and named.states is not None
    if joint.share < FOLLOWED and features:
        return None, explanations
    w = np.rint(FEATURE_GRID * joint.states.w).astype(np.int64)
    values = along(w)
    low, high = taste.bounds(values)
    way = Direction(
        *model, named.states.layer, named.states.scale, tuple(w.tolist()), low, high,
        round(float(np.mean(values))),
    )  # fmt: skip
    chance = max(1, round(FEATURE_GRID * joint.signal * joint.share))
    own = Explanation(chance, ((len(features), FEATURE_GRID),))
    about = [each for each in explanations if each.weights][: taste.MOST_EXPLANATIONS - 2]
    rest = FEATURE_GRID - chance - sum(each.chance for each in about)
    return way, (*about, own, *([Explanation(rest, ())] if rest > 0 else []))
