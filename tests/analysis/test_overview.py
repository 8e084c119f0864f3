"""The dashboard's numbers against ledgers whose figures are worked out by hand."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from szpo import metrics
from szpo.analysis import agreement, improvement, measuring, overview, vote_rows
from szpo.analysis.improvement import Improvement
from szpo.ledger import orders, theta
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.metrics import Share, quantile, rate, share
from szpo.replay import verification
from szpo.runs import assemble, guards
from szpo.runs.guards import Bands
from szpo.voting import pauses
from szpo.voting.applied_step import Outcome
from tests.support import yard_run
from tests.support.browser import cast, make, play
from tests.support.cases import case
from tests.support.overview import S, ballot, page, step
from tests.support.quadratic import new_ledger, settings_of


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(3, 3, 0.44, 1.00), (4, 5, 0.38, 0.96), (9, 9, 0.70, 1.00), (30, 50, 0.46, 0.72)],
)
def test_shares_of_small_panels_have_the_intervals_that_were_published(hits, of, low, high):
    found = share(hits, of)
    assert (round(found.low, 2), round(found.high, 2)) == (low, high)
    assert found.unsure() == (low <= 0.5 <= high)


def test_intervals_are_given_where_there_are_some():
    assert quantile([5.0], 0.5).low is None
    ten = quantile([float(i) for i in range(1, 11)], 0.5)
    # n q ± 1.96 √(n q (1 − q)) = 5 ± 3.1: the second and the tenth of ten ordered values.
    assert (ten.value, ten.low, ten.high) == (5.5, 2.0, 10.0)
    none = rate(0, 2.0)
    assert (none.value, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(-math.log(0.025) / 2)
    found = metrics.mean([0.0, 1.0] * 8)  # s² = 16/15 · 1/4, over 16 values
    assert (found.value, found.n) == (0.5, 16)
    assert found.high - found.value == pytest.approx(1.96 * (4 / 15 / 16) ** 0.5)


def test_agreement_and_alpha_by_hand():
    # Two comparisons of three votes: ++− and +++; ties are no side, and say something to α only.
    verdicts = ["plus", "plus", "minus", "plus", "plus", "plus", "plus", "tie"]
    found = agreement.agreement(
        page(
            [
                ballot(i, verdict, comparison="aaabbbcc"[i], panelist=f"P-0{i % 3}")
                for i, verdict in enumerate(verdicts)
            ]
        )
    )
    # Of three pairs one agrees, then three of three; one disjoint pair each.
    assert found["same"].value == pytest.approx(4 / 6) and found["same"].of == 2
    # n = 8, totals + 6, − 1, tie 1; Σ disagreeing = 4/2 + 0 + 2 = 4; 64 − 38 = 26.
    assert found["alpha"].value == pytest.approx(1 - 7 * 4 / 26)
    assert found["alpha"].n == 3
    assert agreement.alpha(map(Counter, ("pp", "mm"))).value == 1.0
    assert agreement.alpha(map(Counter, ("pp", "pp"))).value is None
    assert agreement.alpha(map(Counter, "pm")).n == 0


def test_a_repeat_is_the_same_panelists():
    first = ballot(8, "plus", comparison="x")
    again = ballot(9, "minus", repeats="x", comparison="x2")
    other = ballot(10, "plus", repeats="x", comparison="x3", panelist="P-02")
    rows = agreement.panelists(page([first, again, other]))
    ada, bob = rows
    assert (ada["repeat"].hits, ada["repeat"].of) == (0, 1)
    assert bob["repeat"].of == 0  # somebody else's verdict says how far people agree


def test_somebody_is_compared_with_the_others_only():
    verdicts = [("A", "plus"), ("A", "plus"), ("B", "minus"), ("C", "plus"), ("C", "plus")]
    votes = [ballot(i, verdict, panelist=who) for i, (who, verdict) in enumerate(verdicts, 1)]
    rest = {row["name"]: row["rest"] for row in agreement.panelists(page(votes))}
    assert (rest["A"].hits, rest["A"].of) == (2, 2)  # the others: −, +, +
    assert (rest["B"].hits, rest["B"].of) == (0, 1)
    two = [replace(vote, comparison="same") for vote in votes[:2]]
    assert agreement.panelists(page(two))[0]["rest"].of == 0  # alone, nobody to agree with


def test_waiting_and_links_and_cost_by_hand():
    rows = [step(0), step(1)]
    votes = [ballot(i, "plus", step=i // 3, dwell_ms=60_000) for i in range(6)]
    found = overview.overview(page(votes, rows, as_of_us=250 * S))
    assert found["speed"]["waiting"] == pytest.approx(50 / 250)
    assert {name: link.value for name, link in found["speed"]["links"].items()} == {
        "votes": 100.0, "answers": 49.0, "update": 1.0
    }  # fmt: skip
    assert found["speed"]["slowest"] == "votes"
    assert found["speed"]["overall"].value == pytest.approx(6 * 3600 / 200)
    assert found["cost"]["votes"] == 16  # eight of ten steps of two votes
    assert found["cost"]["measured"]
    assert found["cost"]["person_hours"].value == pytest.approx(16 / 60)
    # From the first opening to the first close 100 s, then 150 s to the next: median 125 s.
    assert found["cost"]["end_us"].value == pytest.approx((250 + 8 * 125) * S)


def test_a_pause_counts_neither_as_waiting_nor_as_voting():
    rows = [step(0), step(1)]
    shut = ((20 * S, 60 * S), (110 * S, 120 * S))
    found = overview.overview(page([ballot(1, "plus")], rows, as_of_us=250 * S, pauses=shut))
    assert found["speed"]["waiting"] == pytest.approx(40 / 200)
    assert found["speed"]["links"]["votes"].value == pytest.approx((60 + 100) / 2)


def test_a_skip_outside_training_is_none_of_a_panelist_s_skips():
    cast = [ballot(0, "plus"), ballot(1, "skip"), ballot(2, "skip", kind="final", step=None)]
    (row,) = overview.overview(page(cast))["panelists"]
    assert (row["skips"].hits, row["skips"].of) == (1, 2)


def test_programs_do_not_make_people_look_fast():
    fast = [ballot(i, "plus", panelist="robot", dwell_ms=1) for i in range(50)]
    slow = [ballot(90 + i, "plus", dwell_ms=60_000) for i in range(6)]
    for votes, people, expected in (
        ([*fast, *slow], page(slow).panelists, (60.0, 6)), (fast, {}, (0.001, 50)),
    ):  # fmt: skip
        mixed = replace(page(votes), panelists={**people, "robot": "simulated"})
        median = overview.overview(mixed)["speed"]["median"]
        assert (median.value, median.n) == expected


def test_votes_left_follow_the_tightest_limit():
    votes = [ballot(1, "plus"), ballot(2, "plus")]
    assert overview.overview(page(votes, budget=8))["progress"]["planned"] == 4
    assert overview.overview(page(votes, limit_votes=5))["progress"]["planned"] == 2
    assert overview.overview(page(votes, limit_steps=1))["progress"]["votes_left"] == 0
    opened = [step(0), step(1, state="open", closed_us=None, applied_us=None)]
    hidden = overview.overview(page(votes, opened, hidden_us=(1,)))["progress"]
    assert (hidden["votes"], hidden["votes_left"]) == (2, 17)


def test_length_of_winners():
    votes = [
        ballot(1, "plus"), ballot(2, "plus"), ballot(3, "minus"),
        ballot(4, "minus", words_plus=50, words_minus=100),
    ]  # fmt: skip
    found = overview.overview(page(votes))["length"]
    # Winner over loser: 2, 2, ½, 2; log₂: 1, 1, −1, 1, mean ½.
    assert found["ratio"].value == pytest.approx(2**0.5)
    # x = log 2 · (1, 1, 1, −1), y = (1, 1, −1, −1): r = 1/√3.
    assert found["correlation"].value == pytest.approx(1 / math.sqrt(3))


def test_what_the_guard_calls_broken_the_page_does_too():
    for name in ["kl", "length", "repetition", "norm"]:
        for value in [2.0, 15.0, 15.1, -1.0, math.nan, math.inf, -math.inf]:
            with case(name, value):
                bands = Bands(**{name: (0.0, 15.0)})
                found = overview.overview(page([], [step(0, **{name: value})], bands=bands))
                (health,) = found["health"]
                assert (health["broken"] == (name,)) is (bands.broken({name: value}) is not None)
    both = Bands(kl=(-math.inf, 15.0), length=(4.0, 40.0))
    (health,) = overview.overview(page([], [step(0, kl=16.0, length=3.0)], bands=both))["health"]
    assert health["broken"] == ("kl", "length")


def test_a_pause_for_a_figure_that_is_no_number_is_red_on_the_page(tmp_path):
    """JSON has no NaN, so the record says of such a figure that it was not finite."""
    stage = make(tmp_path / "run.db", sets=["guards.kl=15"])
    bands = guards.bands(stage.site.config.guards)
    stage.advance(kl=lambda theta: 1.0, bands=bands)
    for kl in (1.0, math.nan):
        for name in ("Ada", "Ada", "Bob", "Bob"):
            cast(stage, name)
        outcome = stage.advance(kl=lambda theta, kl=kl: kl, bands=bands)
    assert outcome is not None and outcome.status == "paused"
    assert "guard kl" in outcome.reason and "kl is nan" in outcome.reason
    found = vote_rows.read_evidence(stage.ledger)
    assert found.run.bands == bands
    shown = overview.overview(found)
    assert [health["broken"] for health in shown["health"]] == [(), ("kl",)]
    assert "kl" not in shown["health"][1]["figures"]


def test_the_evidence_of_a_ledger_is_that_of_its_record(tmp_path):
    voted = make(tmp_path / "run.db")
    play(voted, 3)
    cast(voted, "Ada")
    shut, live = (
        vote_rows.read_evidence(voted.ledger),
        vote_rows.read_evidence(voted.ledger, live=True),
    )
    assert (len(list(shut.votes)), len(shut.run.hidden_us)) == (12, 1)
    assert (len(list(live.votes)), len(live.run.hidden_us)) == (13, 0)
    progress = overview.overview(shut)["progress"]
    assert (progress["votes"], progress["applied"]) == (12, 3)
    assert progress["votes_left"] == 97 * 4 - 1
    rows = shut.steps
    assert all(row.distinct and row.length for row in rows[:3])
    found = next(iter(vote_rows.read_evidence(voted.ledger).votes))
    # Three rows of "Question i?" and twice "Answer i of round 1 is amber. It has a second …"
    assert (found.words_plus, found.words_minus) == (36, 36)
    assert found.words == 72 + 6
    pauses.pause(voted.ledger, "olga", "lunch")
    voted.clock.forward(600)
    pauses.unpause(voted.ledger, "olga")
    (begin, end), = vote_rows.read_evidence(voted.ledger).run.pauses  # fmt: skip
    assert end is not None
    assert 600 * S <= end - begin < 601 * S
    service = voted.site.service
    seat = service.assign(service.enroll("person", "Bob"))
    assert seat is not None
    other = "B" if seat.plus_side == "A" else "A"
    service.cast(seat.id, seat.plus_side, idem="a" * 16)
    service.cast(seat.id, other, idem="b" * 16)
    own = [b for b in vote_rows.read_evidence(voted.ledger, live=True).votes if b.seat == seat.id]
    assert [(b.revision, b.verdict, b.standing, b.counted) for b in own] == [
        (0, "plus", False, False), (1, "minus", True, True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    return yard_run.make(tmp_path_factory.mktemp("yard"), "run.votes=48", "evaluation.samples=8")


def measured(path: Path) -> list[dict[str, Any]]:
    with Ledger.open(path, readonly=True) as ledger:
        return [event["body"] for event in ledger.events("measured")]


@pytest.mark.full
def test_a_run_is_measured_before_along_and_after(yard):
    # 48 votes are six steps of eight; three measurements divide them into four parts.
    found = measured(yard)
    assert [(body["steps"], body["votes"]) for body in found] == [
        (0, 0), (2, 16), (3, 24), (4, 32), (6, 48),
    ]  # fmt: skip
    # One held-out place: eight answers at both ends, as the settings say, one on the way.
    assert [len(body["rewards"][0]) for body in found] == [8, 1, 1, 1, 8]
    with Ledger.open(yard, readonly=True) as ledger:
        assert verification.verify(ledger).ok


@pytest.mark.full
def test_measuring_moves_nothing(yard, tmp_path):
    other = yard_run.make(tmp_path, "run.votes=48", "evaluation.samples=1")
    with Ledger.open(yard, readonly=True) as one, Ledger.open(other, readonly=True) as two:
        assert theta_digests(one) == theta_digests(two)


@pytest.mark.parametrize(
    ("share", "verdict", "words"),
    [
        (Share(63, 100, 0.58, 0.68), "better", "better than the base on held-out prompts: wins"),
        (Share(52, 100, 0.42, 0.62), "unclear", "not distinguishable from the base on held-out"),
        (Share(20, 100, 0.13, 0.29), "worse", "worse than the base on held-out prompts: wins"),
        (Share(0, 0, 0.0, 1.0), "unknown", "not known whether it is better than the base (3.1"),
        (None, "unknown", "not known whether it is better than the base (3.1"),
    ],
)  # fmt: skip
def test_the_sentence_says_no_more_than_the_interval(share, verdict, words):
    found = Improvement(share, "blind pairs", 240, 3.14, (), "why")
    assert found.verdict == verdict and found.sentence.startswith(words)
    if verdict == "better":
        assert found.sentence.endswith("wins 63 % [58, 68] of blind pairs; 240 votes, 3.1 nats")


@pytest.mark.full
def test_people_are_asked_for_the_final_comparison_at_the_end(tmp_path):
    path = yard_run.finished(tmp_path)
    before = measured(path)
    with Ledger.open(path) as ledger:
        parts = assemble.reopen(ledger, say=lambda text: None)
        planned = measuring.prepare(ledger, parts, None, lambda text: None)
        assert planned is not None and not planned.people
        people = replace(planned, people=True)
        measuring.after(people, Outcome("paused", "a guard", 3, 24))
        assert not orders.orders(ledger)
        for _ in range(2):  # a process that stays passes here after every pause
            measuring.after(people, Outcome("finished", "24 of 24 votes", 3, 24))
        (order,) = orders.orders(ledger)
        assert (order.kind, order.by) == ("final", "szpo run")
        assert measured(path) == before  # nothing was drawn anew


def test_even_pairs_are_told_since_they_hold_the_share_near_a_half(tmp_path):
    """Of eight pairs four are won and four even; of the last point's none are."""
    measured = {"votes": 8, "tokens": 3.0, "kl": 0.4, "texts": []}
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        for steps, rewards in enumerate(([[0, 0], [0, 1]], [[0, 1], [1, 1]])):
            body = {**measured, "steps": steps, "rewards": rewards}
            ledger.record_event("measured", "controller", body)
        found = improvement.read(ledger)
        assert "by the reward of the panel (50 % are even); 8" in found.sentence
        assert found.share.value == 0.75  # the tuned policy's
        body = {**measured, "steps": 2, "rewards": [[2, 2], [2, 2]]}
        ledger.record_event("measured", "controller", body)
        assert "even" not in improvement.read(ledger).sentence


def test_what_was_measured_before_weights_were_improved_is_not_said_of_them(tmp_path):
    body = {"steps": 3, "votes": 24, "rewards": [[1, 2], [1, 2]], "tokens": 3.0, "kl": 0.4,
            "texts": []}  # fmt: skip
    with new_ledger(tmp_path / "run.db", settings_of()) as ledger:
        for changes in ({"steps": 0, "rewards": [[0, 0], [0, 0]]}, {"steps": 2}, {}):
            ledger.record_event("measured", "controller", {**body, **changes})
        assert improvement.read(ledger).sentence.endswith("24 votes, 0.4 nats")
        theta.append_adopted(ledger, theta.starting_theta(ledger), {"steps": 3, "nats": 2.0})
        found = improvement.read(ledger)
        assert [point.steps for point in found.points] == [0, 2]  # so a resumed run measures
        assert found.verdict == "unknown" and "after it was improved" in found.lack
        assert found.nats == "≈ 2.0 nats"
        ledger.record_event("measured", "controller", {**body, "kl": 2.2})
        assert improvement.read(ledger).sentence.endswith("24 votes, 2.2 nats")


def test_rounds_with_several_sheets_use_up_the_votes_sooner():
    """Of ten rounds of two votes four are given and three open; what is left makes one more."""
    found = overview.overview(page([], [step(0), step(1, n=6), step(2, n=6, state="open")]))
    assert found["progress"] == {"applied": 2, "planned": 4, "votes": 0, "votes_left": 12}
