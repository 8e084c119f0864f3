"""When verdicts on check rows are reason enough to go back to the start."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from szpo.errors import LeaseError, RunError
from szpo.ledger.theta import adopted_bodies, append_adopted, read_adopted, theta_digests
from szpo.replay import replay, verification
from szpo.types import Vote
from szpo.voting import blind, counting, lease, withdrawals
from szpo.voting.applied_step import read_reports
from szpo.voting.blind import Blind, factor_against
from szpo.voting.service import VoteService
from tests.support import named_run

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_it_is_the_incomplete_beta_integral(new, start):
    """2ⁿ · 2 · B(½; a + 1, b + 1) over uniform p below one half."""
    whole = special.betainc(new + 1, start + 1, 0.5) * special.beta(new + 1, start + 1)
    assert float(factor_against(new, start)) == pytest.approx(2.0 ** (new + start + 1) * whole)


@given(COUNTS, COUNTS)
def test_each_verdict_for_the_start_raises_it_and_each_for_the_new_lowers_it(new, start):
    here = factor_against(new, start)
    assert factor_against(new, start + 1) > here > factor_against(new + 1, start)
    # Under a coin the expected factor after one more verdict is the present one.
    assert (factor_against(new, start + 1) + factor_against(new + 1, start)) / 2 == here


@given(st.integers(1, 40))
def test_a_coin_returns_the_policy_in_at_most_one_of_nine_runs_however_often_it_is_looked_at(n):
    """The chance that n fair verdicts ever reach the bound, by counting paths."""
    alive, stopped = {0: Fraction(1)}, Fraction(0)
    for i in range(1, n + 1):
        ahead: dict[int, Fraction] = {}
        for new, chance in alive.items():
            for more in (0, 1):
                ahead[new + more] = ahead.get(new + more, Fraction(0)) + chance / 2
        stopped += sum(c for new, c in ahead.items() if Blind(new, i - new).against)
        alive = {new: c for new, c in ahead.items() if not Blind(new, i - new).against}
    assert stopped <= Fraction(1, blind.NEEDED)
    assert sum(alive.values()) + stopped == 1


def test_same_says_nothing_and_five_in_a_row_for_the_start_are_enough():
    assert Blind(0, 5, 0).against and Blind(0, 5, 9).factor == Blind(0, 5).factor
    assert not Blind(0, 4).against and not Blind(1, 6).against
    assert factor_against(1, 6) == Fraction(sum(comb(8, j) for j in range(2, 9)), 8 * 7)
    assert "the start's answer in 11 of 13 check pairs (odds of 1" in Blind(2, 11).sentence()


def test_a_round_tells_the_nats_of_adopted_weights_and_none_of_the_start(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        named_run.drive(settings, ledger, until_step=1)
        body = {**named_run.adoption(ledger, 1), "nats": 1.5}
        append_adopted(ledger, replay.fold(ledger), body)
        assert [read_adopted(ledger, steps) is None for steps in (0, 1)] == [True, False]
        named_run.drive(settings, ledger, until_step=2)
        name = ledger.query("SELECT pseudonym FROM panelists ORDER BY pseudonym")[0]["pseudonym"]
        withdrawals.withdraw(ledger, "szpo invite", name, settings, weights=True)
        named_run.drive(settings, ledger, until_step=3)
        assert [(each.kl, each.extra.get("kl_measured")) for each in read_reports(ledger)][1:] == [
            (1.5, True), (0.0, True),
        ]  # fmt: skip
        assert verification.verify(ledger).ok


def test_after_a_return_only_later_checks_count(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        named_run.drive(settings, ledger, until_step=1)
        append_adopted(ledger, replay.fold(ledger), named_run.adoption(ledger, 1))

        def check(ids):
            for kind, pool in (("generated", {"checks": ids}), ("step", {})):
                ledger.record_event(kind, "controller", {"step": 0, "pool": pool})

        check([comparison.id for comparison in ledger.comparisons(0)])
        found = blind.read_checks(ledger)
        assert found.new + found.start == len(counting.counted(ledger, 0)) > 0
        body = blind.describe_return(ledger, 1, found)
        ledger.record_event(blind.RETURN, "controller", body)
        check([])
        assert blind.read_checks(ledger) == Blind()


def test_a_run_goes_back_once_its_checks_since_the_last_return_are_against_it(
    tmp_path, monkeypatch
):
    """Five of five for the start; who withdrew counts no longer, and other pairs never."""
    _, ledger = named_run.start(tmp_path)
    cast: dict[int, list[Vote]] = {}
    monkeypatch.setattr(blind.counting, "counted", lambda ledger, step: cast[step])
    with ledger:
        begun = theta_digests(ledger)[0]
        panelist = VoteService(ledger).enroll("simulated", "withdrew")

        def round_of(verdicts, who="stays"):
            step = len(cast)
            for kind, pool in (("generated", {"checks": ["check"]}), ("step", {})):
                ledger.record_event(kind, "controller", {"step": step, "pool": pool})
            cast[step] = [Vote("check", who, 0, 0, each, "A") for each in verdicts]
            cast[step] += [Vote("no check", who, 0, 0, "minus", "A")] * 9
            blind.return_if_due(ledger, len(cast))

        def back():
            return [event["body"] for event in ledger.events(blind.RETURN)]

        round_of(["minus"] * 5)  # before any weights were adopted
        append_adopted(ledger, replay.fold_updates(ledger, 0), named_run.adoption(ledger, 1))
        round_of(["minus"] * 4 + ["tie"], panelist)
        assert blind.read_checks(ledger) == Blind(0, 4, 1) and not back()
        ledger.record_event(withdrawals.EVENT, "op", {"panelist": panelist, "step": 9})
        round_of(["minus", "plus"])
        assert blind.read_checks(ledger) == Blind(1, 1) and not back()
        round_of(["minus"] * 7 + ["tie"])
        told = {"steps": 4, "new": 1, "start": 8, "same": 1, "theta_sha256": begun}
        assert back() == [told] and blind.read_checks(ledger) == Blind()
        walk = [(steps, checks.start) for steps, checks, _ in blind.walk_checks(ledger)]
        assert walk == [(2, 4), (3, 1), (4, 8), (4, 8)]
        assert blind.why_back(ledger) == blind.why_back(ledger, 4) == Blind(1, 8, 1).sentence()
        assert blind.why_back(ledger, 3) is None
        round_of(["minus"] * 9)  # there is nothing to go back from
        assert len(back()) == 1


def test_weights_are_adopted_only_while_the_run_is_held_and_their_verdicts_stand(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        named_run.drive(settings, ledger, until_step=1)
        epoch, theta = lease.acquire(ledger, "one:1:x").epoch, replay.fold(ledger)
        body = named_run.adoption(ledger, 1)
        withdrawals.adopt(ledger, epoch, (), theta, body)
        name = ledger.query("SELECT pseudonym FROM panelists ORDER BY pseudonym")[0]["pseudonym"]
        withdrawals.withdraw(ledger, "szpo invite", name, settings)
        with pytest.raises(RunError, match="votes were withdrawn meanwhile"):
            withdrawals.adopt(ledger, epoch, (), theta, body)
        ledger.execute("UPDATE controller SET expires_us = 0")  # as after an hour asleep
        lease.acquire(ledger, "two:1:x")
        with pytest.raises(LeaseError, match="another controller has taken this run over"):
            withdrawals.adopt(ledger, epoch, withdrawals.withdrawals(ledger), theta, body)
        assert len(adopted_bodies(ledger)) == 1 and verification.verify(ledger).ok
