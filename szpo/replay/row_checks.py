"""Checks of a ledger's rows against each other: seats, votes, plans, comparisons, events."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from szpo.ledger import canonical, run_spec
from szpo.ledger.database import Ledger, Record
from szpo.optim.rules.registry import rule_of
from szpo.replay.findings import Broken, Examination
from szpo.types import Comparison
from szpo.voting import counting, panelists, seats, step_inputs
from szpo.voting.steps import OWN_PAIRS, asked_pairing, stored


def check_plans(look: Examination) -> None:
    """Compare the plan of every step with the optimizer's settings in the spec."""
    settings = run_spec.recorded_settings(look.ledger)
    o = settings.section
    wanted = {"pairing": asked_pairing(settings), "d": o.D, "m": o.M, "k": o.K}
    for row in look.ledger.steps():
        if row["n"] != o.N and (not settings.picks_pairs or row["n"] % o.N):
            raise Broken("steps", row["step"], f"n is {row['n']}, the run has {o.N}")
        for name, value in wanted.items():
            if row[name] != value:
                raise Broken("steps", row["step"], f"{name} is {row[name]}, the run has {value}")


def check_seats(look: Examination) -> None:
    """Derive prompt orders and the ids of simulated panelists and their seats from the seed."""
    ledger = look.ledger
    root = ledger.root_seed
    kinds: dict[str, str] = {}
    for panelist in ledger.query("SELECT * FROM panelists"):
        name, kind = panelist["pseudonym"], panelist["kind"]
        kinds[panelist["panelist"]] = kind
        derived = {k: panelists.panelist_id(root, k, name) for k in ("simulated", "judge")}
        if panelist["panelist"] != derived.get(kind, panelist["panelist"]) or (
            kind == "person" and panelist["panelist"] in derived.values()
        ):
            raise Broken("panelists", panelist["panelist"], f"is not the {kind} {name}")
    for seat in ledger.stream(
        "SELECT a.*, c.step, c.k, c.n, (SELECT count(*) FROM answers "
        "WHERE comparison = a.comparison) AS d "
        "FROM assignments a JOIN comparisons c USING (comparison)"
    ):
        if kinds[seat["panelist"]] != "person" and seat["assignment"] != seats.seat_id(
            root, seat, seat["panelist"]
        ):
            raise Broken("assignments", seat["assignment"], "is not the id that the seed gives")
        order = seats.prompt_order(root, seat, seat["panelist"], seat["d"])
        if json.loads(seat["prompt_order"]) != order:
            raise Broken("assignments", seat["assignment"], "prompt_order is not the seed's")


def check_votes(look: Examination) -> None:
    """Check the revision, the payload's hash and the lateness of every vote."""
    ledger = look.ledger
    closes = {row["step"]: row["last_vote"] for row in ledger.steps()}
    for vote in ledger.stream(
        "SELECT v.*, c.step, (SELECT count(*) FROM votes b WHERE b.assignment = v.assignment "
        "AND b.vote < v.vote) AS before FROM votes v CROSS JOIN assignments a USING (assignment) "
        "CROSS JOIN comparisons c USING (comparison) ORDER BY v.vote"
    ):
        if vote["revision"] != vote["before"]:
            raise Broken("votes", vote["vote"], "its revisions have a gap")
        sent = canonical.payload_sha256(
            *(vote[c] for c in ("assignment", "choice", "skip_reason", "dwell_ms", "details"))
        )
        if vote["payload_sha256"] != sent:
            raise Broken("votes", vote["vote"], "payload_sha256 is not that of the answer")
        last = closes.get(vote["step"])
        if last is not None and bool(vote["late"]) != (vote["vote"] > last):
            raise Broken("votes", vote["vote"], "late does not fit the close of its step")


def check_comparisons(look: Examination) -> None:
    """Check the comparisons of each step, then those that belong to no step."""
    ledger = look.ledger
    for row in ledger.steps():
        _check_step(ledger, row)
    for head in ledger.query("SELECT * FROM comparisons WHERE step IS NULL"):
        comparison = ledger.comparison(head["comparison"])
        if comparison is None or head["kind"] == "train":
            raise Broken("comparisons", head["comparison"], "belongs to no step")
        _check_comparison(comparison, head)


def _check_step(ledger: Ledger, row: Record) -> None:
    """Check that a step has all its comparisons, with the votes that its kind of close needs."""
    comparisons = ledger.comparisons(row["step"], kind=None)
    heads = {
        head["comparison"]: head
        for head in ledger.query("SELECT * FROM comparisons WHERE step = ?", (row["step"],))
    }
    for comparison in comparisons:
        _check_comparison(comparison, heads[comparison.id])
    train = [c for c in comparisons if c.kind == "train"]
    planned = [(k, n) for k in range(row["k"]) for n in range(row["n"])]
    answered = row["state"] in ("open", "closed", "applied")
    if answered and [(c.k, c.n) for c in train] != planned:
        raise Broken("steps", row["step"], "does not have K·N training comparisons")
    for comparison in train:
        if len(comparison.rows) != row["d"]:
            rows = len(comparison.rows)
            raise Broken("comparisons", comparison.id, f"has {rows} rows, D is {row['d']}")
    if row["pairing"] in OWN_PAIRS and train:
        _check_candidates(ledger, row["step"], train)
    if row["closed_by"] == "auto" and not all(c.identical for c in train):
        raise Broken("steps", row["step"], "closed by itself, yet there was something to ask")
    if row["closed_by"] == "rule":
        _check_rule_met(ledger, row, train)


def _check_candidates(ledger: Ledger, step: int, train: Sequence[Comparison]) -> None:
    """Check that each shown answer was a recorded candidate of its row."""
    pool = step_inputs.body_of(ledger, "generated", step).get("pool")
    candidates = pool.get("candidates") if isinstance(pool, dict) else None
    if not isinstance(candidates, list) or len(candidates) != len(train):
        raise Broken("steps", step, "its candidates are not recorded for each row")
    noted = pool.get("checks", []) if isinstance(pool, dict) else None
    rows = [each.id for each in train]
    if not isinstance(noted, list) or any(each not in rows for each in noted):
        raise Broken("steps", step, "notes a check that is none of its rows")
    for comparison, digests in zip(train, candidates, strict=True):
        if comparison.repeats is not None:
            before = ledger.comparison(comparison.repeats)
            if before is None or before.rows != comparison.rows:
                raise Broken("comparisons", comparison.id, "is not the row that it repeats")
            continue
        texts = [each.text for row in comparison.rows for each in (row.plus, row.minus)]
        if not set(map(step_inputs.text_digest, texts)) <= {*digests}:
            raise Broken("comparisons", comparison.id, "shows a text that was no candidate")


def _check_comparison(comparison: Comparison, head: Record) -> None:
    """Check that a comparison's row fits its answers."""
    if canonical.rows_sha256(comparison.rows) != head["rows_sha256"]:
        raise Broken("comparisons", comparison.id, "rows_sha256 is not that of its answers")
    if comparison.identical != bool(head["identical"]):
        raise Broken("comparisons", comparison.id, "identical does not fit its answers")


def _check_rule_met(ledger: Ledger, row: Record, train: Sequence[Comparison]) -> None:
    """Check that no comparison with a difference lacks a vote, which closed the step."""
    votes = counting.StepVotes(ledger, row["step"])
    for comparison in train:
        if not comparison.identical and (lack := votes.missing_at(comparison.id)):
            raise Broken(
                "steps",
                row["step"],
                f"was closed by its rule, yet comparison {comparison.id} has "
                f"{row['m'] - lack} of {row['m']} votes",
            )


def _check_features(ledger: Ledger) -> None:
    """Check that a run without coordinates drew its features once, before its first fit."""
    if not run_spec.recorded_settings(ledger).idle:
        return
    order = [
        row["kind"]
        for row in ledger.query(
            "SELECT kind FROM events WHERE kind IN (?, 'regressors') ORDER BY event",
            (run_spec.FEATURES,),
        )
    ]
    if run_spec.FEATURES in order[1:] or (order and order[0] != run_spec.FEATURES):
        raise Broken("events", run_spec.FEATURES, "are not recorded once, before the first fit")


def check_step_events(look: Examination) -> None:
    """Compare the rows of steps, which can be changed, with their chained events."""
    ledger = look.ledger
    _check_features(ledger)
    events: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    two_points = rule_of(run_spec.recorded_settings(ledger).section.rule).two_points
    for kind in ("generated", "regressors", "close", "step"):
        events[kind] = {}
        for event in ledger.events(kind):
            events[kind].setdefault(event["body"]["step"], []).append(event["body"])
    for row in ledger.steps():
        number, state, by = row["step"], row["state"], row["closed_by"]
        wanted = {
            "generated": stored(ledger, number),
            "close": by not in (None, "rule"),
            "step": state == "applied",
            "regressors": two_points
            and (state == "applied" or bool(events["regressors"].get(number))),
        }
        for kind, is_wanted in wanted.items():
            found = len(events[kind].get(number, ()))
            if found != is_wanted:
                problem = f"is {state}, closed by {by}; it has {found} events of kind {kind}"
                raise Broken("steps", number, problem)
        for body in events["close"].get(number, ()):
            if body["by"] != by:
                raise Broken("steps", number, f"closed by {by}, its event says {body['by']}")
        for body in events["step"].get(number, ()):
            for name, value in body["row"].items():
                if row[name] != value:
                    problem = f"{name} is {row[name]}, its event says {value}"
                    raise Broken("steps", number, problem)
    epoch = ledger.query("SELECT epoch FROM controller")[0]["epoch"]
    for row in ledger.query("SELECT * FROM steps"):
        if row["run"] != ledger.run:
            raise Broken("steps", row["step"], f"belongs to the run {row['run']}")
        if row["epoch"] > epoch:
            raise Broken("steps", row["step"], f"epoch {row['epoch']} has not begun yet")
