"""Verify a ledger: recompute a run from its raw rows, and name the first row that disagrees.

Reads only the file: no model, no torch, no clock. `CHECKS` lists what is checked, in order.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np

from szpo.config.optimizer import fitting
from szpo.errors import MissingPluginError, StorageError, SzpoError
from szpo.features import user_features
from szpo.ledger import canonical
from szpo.ledger.canonical import update_of
from szpo.ledger.database import Ledger, Record
from szpo.ledger.run_spec import recorded_settings
from szpo.ledger.theta import last_adopted, starting_theta, theta_digests
from szpo.optim import kl_limits, optimizer, parameters, regression, schedule
from szpo.optim.kl_limits import SHARE_PARTS, KlMeasurement
from szpo.optim.optimizer import Point, has_two_points, rule_of
from szpo.optim.rule import StepInputs
from szpo.optim.settings import Settings
from szpo.replay import record_checks, replay
from szpo.replay.record_checks import Broken, Examination, Failure, Promise, Report, StepCheck
from szpo.types import Explanation, Theta, Update
from szpo.voting import counting, shown_features
from szpo.voting.applied_step import (
    AppliedStep,
    StepReport,
    Stopwatch,
    count,
    figures_of,
    flatten,
    report_of,
)
from szpo.voting.counting import StepVotes
from szpo.voting.recorded_step import Step, read_step

TOLERANCE: Final = 1e-9
"""Relative difference that another machine's rounding may make in an inexact estimate."""
JUST_SAID: Final = 0.0201
"""Claims up to this chance, which rounding can add or take (`named_features.claims`)."""
FIGURES: Final = 1e-5
"""The same in KL and in the figures of a step's event, which a fit repeats less exactly."""
ROUNDINGS: Final = {"coef": 2.0**-12, "vector": 2.0**-23}
"""Relative size of one unit in the last recorded place (13 bits; fp32)."""

UNFOLLOWED: Final = "the share of the way is not the one that its readings of KL give"

Check: TypeAlias = Callable[[Examination], None]


class Weights:
    """θ, added up step by step from the recorded updates."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.settings: Settings = recorded_settings(ledger)
        self.theta: Theta = starting_theta(ledger)
        self.start: Theta = self.theta
        self.reaches = replay.read_reaches(ledger, self.settings)
        self.centre: Theta = self.theta
        """The point around which the run asks; θ itself unless the rule has two points."""

    def add(self, rows: Sequence[Record]) -> Theta:
        """Add an applied step's updates; returns θ after them."""
        recorded = [update_of(row) for row in rows]
        self.theta = self._move(self.theta, recorded, "recommended")
        if (reach := self.reaches.get(recorded[0].step)) is not None:
            if reach.limit != self.settings.kl_budget or not reach.follows:
                raise Broken("events", f"step {recorded[0].step}", UNFOLLOWED)
            self.theta = kl_limits.draw_back(self.start, self.theta, reach)
        two_points = has_two_points(self.settings.section.rule)
        self.centre = self._move(self.centre, recorded, "centre") if two_points else self.theta
        return self.theta

    def _move(self, theta: Theta, updates: Sequence[Update], point: Point) -> Theta:
        for update in optimizer.added_updates(self.settings, updates, point):
            theta = parameters.apply_update(self.settings.space, theta, update)
        return theta


class Recomputation:
    """The optimizer's state and updates, recomputed step by step from votes."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self.settings: Settings = recorded_settings(ledger)
        self.state = optimizer.init(self.settings)
        self.known = {0: self.state}
        """The states from which a step may have been planned, by the number of finished steps."""
        self.weights = Weights(ledger)
        self.exact = is_exact(self.settings)
        self.two_points = rule_of(self.settings.section.rule).two_points
        self.of_another_version = list[int]()
        """Steps whose recorded findings have another form."""

    def check_radius(self, step: Record) -> None:
        """Check that the step's radius is the one that follows from the run's settings."""
        wanted = schedule.mu_at(self.settings, step["step"])
        if step["mu"] != wanted:
            raise Broken("steps", step["step"], f"mu is {step['mu']}, the run gives {wanted}")

    def check_directions(self, step: Record, heads: Mapping[int, str]) -> None:
        """Check that the step's directions follow from the votes known then and the run's seed.

        ``heads``: digests of the weights by the number of finished steps, up to this step.
        """
        settings, number = self.settings, step["step"]
        asked = read_step(self.ledger, number).plan(settings)
        if asked is None:
            return
        row, known = f"step {number}", self.known.get(asked.after)
        if known is None or heads[asked.after] != step["head_sha256"]:
            problem = f"asked_after is {asked.after}, which is not the head of its plan"
            raise Broken("events", row, problem)
        if not _are_near(asked.ways, rule_of(settings.section.rule).ways(settings, known.carried)):
            raise Broken("events", row, "asked ways are not what the votes known then give")
        if asked.grids != optimizer.draw_grids(settings, number, asked.ways):
            raise Broken("events", row, "asked directions are not those drawn by the seed")

    def check(
        self, step: Record, rows: Sequence[Record], counts: Mapping[str, int], votes_sha256: str
    ) -> None:
        """Recompute an applied step from its votes, and compare its rows of updates and its event.

        ``counts`` and ``votes_sha256``: of the votes.
        """
        ledger, settings, number = self.ledger, self.settings, step["step"]
        recorded = read_step(ledger, number)
        inputs = recorded.inputs(ledger, settings)
        self._check_inputs(step, inputs)
        tally, state, updates, info = replay.tell_step(
            ledger, settings, recorded, self.state, counting.counted(ledger, number), inputs=inputs
        )
        # With lag 1 a step is planned while the one before is open.
        self.known = {self.state.step: self.state, state.step: state}
        self.state = state
        if inputs.reach is not None:
            self._check_reach(number, inputs.reach)
        before, after = self.weights.theta, self.weights.add(rows)
        report = report_of(
            step,
            info,
            counts,
            votes_sha256=votes_sha256,
            theta_sha256=_digest(ledger, after),
            before=flatten(before, settings.layout),
            after=flatten(after, settings.layout),
            findings=replay.findings(ledger, settings, state),
        )
        centre = _digest(ledger, self.weights.centre)
        applied = AppliedStep(settings.section.rule, tally, updates, report, centre)
        self._compare_rows(rows, applied)
        self._compare_event(recorded, report)

    def _check_inputs(self, step: Record, inputs: StepInputs) -> None:
        """Check the recorded centre and features against the step's head and texts."""
        number, layout = step["step"], self.settings.layout
        if inputs.centre is not None:
            name, shape = layout[0]
            centre = {name: inputs.centre.astype(np.float32).reshape(shape)}
            if _digest(self.ledger, centre) != step["head_sha256"]:
                raise Broken("events", f"step {number}", "centre is not the head of its step")
        named = self.settings.described
        if self.settings.regressors is not None:
            fitted = fitting(self.settings)
            inputs = read_step(self.ledger, number).inputs(self.ledger, fitted)
        shown = [] if named is None else self.ledger.comparisons(number)
        rated = shown_features.recorded(shown, inputs.ratings)
        if named is not None and (entries := shown_features.entries_of(named, rated=rated)):
            mine = shown_features.differences_of(named, shown, entries)
            at = [named.names.index(name) for name in entries]
            if inputs.text_differences is None or (mine != inputs.text_differences[..., at]).any():
                problem = "features are not those of its texts"
                raise Broken("events", f"step {number}", problem)

    def _check_reach(self, number: int, reach: KlMeasurement) -> None:
        """Check that KL was measured towards the proposed point, and that its share follows."""
        settings, carried = self.settings, self.state.carried
        if settings.kl_budget is None or not reach.follows:
            raise Broken("events", f"step {number}", UNFOLLOWED)

        def estimate(share: int) -> float:
            return regression.quadratic_kl(settings, share / SHARE_PARTS * carried.proposed)

        wanted = [(reach.limit, regression.find_limit(settings, carried))]
        wanted += [(each.estimate, estimate(each.share)) for each in reach.readings]
        if not all(_agree(found, own, FIGURES) for found, own in wanted):
            problem = "KL is of another point, or budget, than the votes give"
            raise Broken("events", f"step {number}", problem)

    def _compare_rows(self, rows: Sequence[Record], applied: AppliedStep) -> None:
        if [u.k for u in applied.updates] != [row["k"] for row in rows]:
            key = canonical.row_key("updates", rows[0])
            raise Broken("updates", key, "the votes give another number of updates")
        for row, mine, update in zip(rows, applied.rows, applied.updates, strict=True):
            key = canonical.row_key("updates", row)
            if row["theta_sha256"] != mine["theta_sha256"]:
                raise Broken("updates", key, "theta_sha256 is not what the updates add up to")
            for name in ("n_votes", "rule", "estimate", "stderr"):
                if not _agree(row[name], mine[name], TOLERANCE):
                    problem = f"{name} is {row[name]}, the votes give {mine[name]}"
                    raise Broken("updates", key, problem)
            self._compare_update(key, update, update_of(row))

    def _compare_update(self, key: str, mine: Update, stored: Update) -> None:
        kind = "coef" if stored.vector is None else "vector"
        own, given = _values(mine), _values(stored)
        size = float(np.abs(given).max(initial=0.0))
        if self.two_points:  # a small move has the rounding of its large end points
            points = self.state.carried.recommended, self.state.carried.centre
            size = max(size, 2 * max(float(np.abs(point).max(initial=0.0)) for point in points))
        slack = 0.0 if self.exact else ROUNDINGS[kind] * size
        if own.shape != given.shape or np.abs(own - given).max(initial=0.0) > slack:
            raise Broken("updates", key, f"{kind} is not what the votes give")

    def _compare_event(self, recorded: Step, report: StepReport) -> None:
        """Compare the event of an applied step with what its votes, weights and answers give."""
        found, reach = recorded.body("step"), recorded.reach
        figures = {k: v for k, v in figures_of(recorded).items() if k not in Stopwatch.PARTS}
        own = {**replace(report, figures=figures).body}
        del own["reach"], own["kl"]
        adopted = last_adopted(self.ledger, recorded.number) is not None
        if reach is not None and reach.measured is not None and not adopted:
            own["kl"] = reach.measured
        noted, findings = (each["extra"].get("findings") for each in (found, own))
        if findings is not None and noted is not None:
            if _has_form(noted, findings):
                noted, findings = _by_claim(noted), _by_claim(findings)
                _drop_just_said(noted["taught"] or {}, findings["taught"] or {})
                found = {**found, "extra": {**found["extra"], "findings": noted}}
            else:
                self.of_another_version.append(recorded.number)
                findings = noted
            own["extra"]["findings"] = findings
        _compare_figures(recorded.number, found, own)


def _compare_figures(step: int, found: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare the event of an applied step with the figures that it must have."""
    if name := _find_difference(found, own):
        problem = f"{name} is not what the votes and answers give"
        raise Broken("events", f"step {step}", problem)


def _agree(found: Any, own: Any, tolerance: float, floor: float = 1e-3) -> bool:
    """Whether two recorded values are equal, numbers but for rounding."""
    if type(found) in (int, float) and type(own) in (int, float):
        return bool(abs(found - own) <= tolerance * max(abs(found), abs(own), floor))
    return bool(type(found) is type(own) and found == own)


def _find_difference(found: Any, own: Any, name: str = "") -> str:
    """The name of the first entry of ``own`` that ``found`` has not, or has otherwise; '' if none.

    >>> _find_difference({"a": [1.0, 2.0], "b": 1}, {"a": [1.0, 3.0]})
    'a.1'
    """
    if isinstance(own, list):
        if not isinstance(found, list) or len(found) != len(own):
            return name
        found, own = dict(enumerate(found)), dict(enumerate(own))
    if not isinstance(own, dict):
        return "" if _agree(found, own, FIGURES, 0.2) else name  # factors are kept to 1e-6
    for key, value in own.items():
        at = f"{name}.{key}" if name else str(key)
        if not isinstance(found, dict) or key not in found:
            return at
        if problem := _find_difference(found[key], value, at):
            return problem
    return ""


def _has_form(noted: Mapping[str, Any], findings: Mapping[str, Any]) -> bool:
    """Whether recorded findings and their claims have the entries of today's."""
    claims = noted.get("taught") or ()
    return set(noted) == set(findings) and all(
        {"feature", "more", "chance", "share"} <= set(each) and each.get("group")
        for each in claims
    )


def _by_claim(findings: Mapping[str, Any]) -> dict[str, Any]:
    """Findings with their claims by group and sense.

    Which of two equally likely features stands first, or for a group, is up to rounding.
    """
    claims = {
        f"{each['group']}, {'more' if each['more'] else 'less'}": {
            "feature": each["feature"] if each["share"] > 0.5 + FIGURES else "one of several",
            "chance": each["chance"],
            "share": each["share"],
        }
        for each in findings["taught"] or ()
    }
    ordered = {"lacking": sorted(findings["lacking"])} if "lacking" in findings else {}
    return {**findings, **ordered, "taught": findings["taught"] and claims}


def _drop_just_said(noted: dict[str, Any], own: dict[str, Any]) -> None:
    """Drop claims of one side alone that are just likely enough to be said: rounding decides."""
    for claim in set(noted) ^ set(own):
        side = noted if claim in noted else own
        if side[claim]["chance"] <= JUST_SAID:
            del side[claim]


def _are_near(recorded: Sequence[Explanation], mine: Sequence[Explanation]) -> bool:
    """Whether chances and weights agree within one unit; a missing one has a chance of 0."""
    found, own = ({way.regressors: way for way in ways} for ways in (recorded, mine))
    for at in {*found, *own}:
        pair = [ways[at] for ways in (found, own) if at in ways]
        numbers = np.array([(way.chance, *way.weights) for way in pair])
        if len(pair) == 1:
            numbers = np.array([[pair[0].chance], [0]])
        if np.ptp(numbers, axis=0).max() > 1:
            return False
    return len(found) == len(recorded)


def _digest(ledger: Ledger, theta: Theta) -> str:
    return parameters.digest(theta, ledger.layout, ledger.basis_sha256)


def is_exact(settings: Settings) -> bool:
    """Whether updates are recomputed to the last bit on any machine.

    True for counting rules, and for `known` with the logistic link and log-ratio smoothing. False
    for rules with a posterior, and for votes of unequal weight.
    """
    o = settings.section
    return o.weighting == "equal" and rule_of(o.rule).is_exact(settings)


def _values(update: Update) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = [update.coef or 0.0] if update.vector is None else list(update.vector)
    return np.asarray(found, dtype=np.float64)


def verify(
    ledger: Ledger, *, deep: bool = True, head: str | None = None, also: Sequence[Check] = ()
) -> Report:
    """Check a whole ledger; ``deep`` also recomputes every update and all weights.

    ``head`` is the hash of an event that was once the last, noted elsewhere: a chain that was
    rewritten as a whole agrees with itself, but not with that hash.
    ``also``: checks from outside of this package.

    >>> Failure("votes", "3", "differs from what was recorded")
    Failure(table='votes', row='3', problem='differs from what was recorded')
    """
    # One snapshot: else votes cast meanwhile would look as if added by hand.
    with ledger.snapshot(), contextlib.closing(sqlite3.connect("")) as hashes:  # on disk
        return _examine(Examination(ledger, hashes, deep, head), also)


def _examine(look: Examination, also: Sequence[Check]) -> Report:
    try:
        for check in (*CHECKS, *also):
            check(look)
    except Broken as found:
        return look.report(found.failure)
    except MissingPluginError:  # nothing is wrong with the ledger
        raise
    except sqlite3.OperationalError as error:
        raise StorageError(f"verify: no room for its own table of hashes ({error})") from None
    except (
        SzpoError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
        sqlite3.Error,
    ) as error:  # fmt: skip
        undecodable = record_checks.find_undecodable(look.ledger)
        return look.report(undecodable or Failure("file", look.ledger.path.name, str(error)))
    return look.report()


# ---- votes → updates → weights ----


def check_updates(look: Examination) -> None:
    """Check all steps and their updates; if ``deep``, recompute updates and weights too."""
    ledger = look.ledger
    rows_of = _read_updates(ledger)
    recomputation = Recomputation(ledger) if look.deep else None
    heads, steps = theta_digests(ledger), ledger.steps()
    written = () if look.deep else ledger.events("step")
    bodies = {each["body"]["step"]: each["body"] for each in written}
    named = None if recomputation is None else recomputation.settings.described
    if named is not None:
        counted_here = shown_features.entries_of(named)
        rated = [name for name, kind, *_ in named.own if kind == user_features.JUDGE]
        if rated:
            look.notes.append(f"ratings of {', '.join(rated)} are a judge's, as recorded")
        if lack := [n for n in named.names if n not in counted_here and n not in rated]:
            more = f" and {len(lack) - 3} more features" if len(lack) > 3 else ""
            look.notes.append(
                f"values of {', '.join(lack[:3])}{more} are recorded, not recomputed: the code "
                "that counts them is not szpo's, or is of another version"
            )
    done, total, after = 0, 0, dict[int, str]()
    for number, step in enumerate(steps):
        if step["step"] != number:
            raise Broken("steps", number, "is missing")
        rows = rows_of.pop(number, [])
        if (step["state"] == "applied") != bool(rows):
            raise Broken("steps", number, f"is {step['state']}, which its updates contradict")
        # With lag 1 a step starts from the head before the last one, never from a later one.
        prompt = step["head_sha256"] == heads[done]
        follows = number > 0 and steps[number - 1]["state"] == "applied"
        lagging = follows and step["head_sha256"] == heads[done - 1]
        if not prompt and not lagging:
            raise Broken("steps", number, "head_sha256 is not the head it was planned from")
        after.setdefault(number, heads[done])
        if recomputation is not None:
            recomputation.check_radius(step)
            recomputation.check_directions(step, after)
        votes = StepVotes(ledger, number)
        if step["counted"] is not None and json.loads(step["counted"]) != votes.ids()[1]:
            raise Broken("steps", number, "counted is not the votes that count")
        if step["state"] == "applied":
            digest = canonical.votes_sha256(votes.counted)
            for row in rows:
                key = canonical.row_key("updates", row)
                if row["votes_sha256"] != digest:
                    raise Broken("updates", key, "votes_sha256 is not that of the counted votes")
                if row["epoch"] != step["epoch"]:
                    raise Broken("steps", number, "epoch is not that of its updates")
            counts = count(votes, ledger.comparisons(number))
            total += counts["votes"]
            counts["total_votes"] = total
            promise: Promise = "not recomputed"
            if recomputation is not None:
                recomputation.check(step, rows, counts, digest)
                promise = "exact" if recomputation.exact else "1e-9"
            else:
                digests = {name: rows[0][name] for name in ("votes_sha256", "theta_sha256")}
                _compare_figures(number, bodies.get(number, {}), {**counts, **digests})
            done += 1
            look.steps.append(StepCheck(number, promise, counts["votes"]))
    if recomputation is not None and (other := recomputation.of_another_version):
        look.notes.append(
            f"findings of {len(other)} steps are recorded, not recomputed: they are of another "
            "version of szpo"
        )
    for number in rows_of:
        raise Broken("steps", number, "is missing, yet it has updates")


def _read_updates(ledger: Ledger) -> dict[int, list[Record]]:
    """Read the rows of `updates` by step; check their hash chain and epochs."""
    rows_of: dict[int, list[Record]] = {}
    prev, epoch = ledger.row["spec_sha256"], 0
    for row in ledger.update_rows():
        key = canonical.row_key("updates", row)
        if row["prev_sha256"] != prev or canonical.update_sha256(row) != row["row_sha256"]:
            raise Broken("updates", key, "breaks the chain of updates")
        if row["epoch"] < epoch:
            raise Broken("updates", key, f"epoch {row['epoch']} comes after epoch {epoch}")
        prev, epoch = row["row_sha256"], row["epoch"]
        rows_of.setdefault(row["step"], []).append(row)
    return rows_of


CHECKS: Final[tuple[Check, ...]] = (
    record_checks.check_schema,
    record_checks.check_chain,
    record_checks.check_head,
    record_checks.check_rows,
    record_checks.check_pages,  # after check_rows, which names a row and not just the file
    record_checks.check_header,
    record_checks.check_budget,
    record_checks.check_plans,
    record_checks.check_seats,
    record_checks.check_votes,
    record_checks.check_comparisons,
    record_checks.check_step_events,
    record_checks.check_returns,
    record_checks.check_spans,
    check_updates,
    record_checks.check_adopted,  # from weights that are checked
    record_checks.check_end,
)
"""All checks in order; each raises `Broken` at the first row that disagrees."""
