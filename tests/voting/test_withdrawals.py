"""Withdrawn verdicts: no later fit has them, and what was recorded stays and verifies."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.analysis import overview, run_taste, taught_taste, vote_export, vote_rows
from szpo.baselines import asking
from szpo.baselines.asking import Meter
from szpo.cli.app import call
from szpo.errors import UsageError
from szpo.improvement import between_rounds
from szpo.judges import pair_scorer
from szpo.ledger import theta
from szpo.optim.all_votes import weigh_all
from szpo.replay import replay, verification
from szpo.runs import status
from szpo.voting import counting, withdrawals
from szpo.voting.panel_evaluator import PanelEvaluator
from szpo.voting.service import VoteService
from tests.support import named_run
from tests.support.named_run import FEWER_COMMAS, Likes, MarkedPolicy
from tests.support.quadratic import go, history

WHO, FIRST = "panel-2", 12


def drive(settings, ledger, until_step):
    judges = [*[FEWER_COMMAS] * 2, Likes(","), *[FEWER_COMMAS] * 2]
    panel = PanelEvaluator(VoteService(ledger), judges)
    go(settings, ledger, MarkedPolicy(settings), panel, until_step=until_step)


@pytest.mark.full
def test_no_fit_from_then_on_has_withdrawn_votes_and_taken_steps_stay(tmp_path, capsys):
    named = replace(named_run.features(), components=0)
    settings, ledger = named_run.start(tmp_path, features=named, M=2)
    with ledger:
        drive(settings, ledger, FIRST)
        rounds = history(ledger)
        people = {row["pseudonym"]: row["panelist"] for row in ledger.query(
            "SELECT * FROM panelists")}  # fmt: skip
        hers = [vote for step in range(FIRST) for vote in counting.counted(ledger, step)
                if vote.panelist == people[WHO]]  # fmt: skip
        others, taste = {*people.values()} - {people[WHO]}, run_taste.read(ledger)[0]
        erase = ["invite", str(ledger.path), "--erase", WHO, "--with-votes"]
        assert call(erase) == 0
        told = capsys.readouterr().out
        assert f"{len(hers)} votes withdrawn: no fit from now on has them; the policy from" in told
        assert "round 1 on had learned from them" in told and "cannot call files back" in told
        done = len(withdrawals.withdrawals(ledger))
        assert call(erase) == 0 and len(withdrawals.withdrawals(ledger)) == done == 1

        after = run_taste.read(ledger)[0]  # before another step
        assert after.verdicts == taste.verdicts - len(hers)
        assert WHO not in vote_rows.read_judged(ledger).panelist
        assert history(ledger) == rounds and verification.verify(ledger).ok

        drive(settings, ledger, FIRST + 2)
        assert history(ledger)[:FIRST] == rounds and verification.verify(ledger).ok
        carried = replay.replay_state(ledger, settings).carried
        *_, (alone, _) = replay.retell(ledger, settings, voters=others)
        early = slice(
            0, FIRST * settings.section.K * settings.section.N
        )  # she may vote again, if she likes
        for side in ("up", "down", "plus_on_a"):
            np.testing.assert_array_equal(
                getattr(carried.votes, side)[early], getattr(alone.carried.votes, side)[early]
            )
        theta.append_adopted(ledger, replay.fold(ledger), named_run.adoption(ledger, FIRST))
        learned = withdrawals.find_learned(ledger, people[WHO])
        assert learned.steps[:FIRST] == tuple(range(FIRST))
        assert learned.improved == (theta.last_adopted(ledger)["theta_sha256"],)
        total = carried.votes.up[early].sum() + carried.votes.down[early].sum()
        o = settings.section
        assert total == FIRST * o.K * o.N * o.M - len(hers)


def test_nothing_that_is_fitted_to_the_runs_file_from_then_on_has_her_votes(tmp_path):
    settings, ledger = named_run.start(tmp_path, M=2)
    with ledger:
        drive(settings, ledger, 2)

        def count():
            meter = Meter()
            asking.read_recorded_pairs(ledger, meter)
            scored = len(pair_scorer.of_ledger(ledger))
            return meter.votes, scored

        cast = count()
        hers = withdrawals.withdraw(ledger, "op", WHO, settings).votes
        assert hers and count() == tuple(each - hers for each in cast)


@pytest.mark.full
@pytest.mark.parametrize("weighting", ["equal", "skill"])
def test_the_votes_of_some_weigh_as_if_nobody_else_had_voted(tmp_path, weighting):
    settings, ledger = named_run.start(tmp_path, M=2, weighting=weighting)
    with ledger:
        drive(settings, ledger, 4)
        some = frozenset({"panel-0", "panel-1", WHO})
        voters = [row["panelist"] for row in ledger.query("SELECT * FROM panelists")
                  if row["pseudonym"] in some]  # fmt: skip
        state = replay.replay_state(ledger, settings)
        left = withdrawals.votes_left(ledger, settings, state, only=some).votes
        *_, (alone, _) = replay.retell(ledger, settings, voters)
        own = alone.carried
        if weighting != "equal":  # a step weighs by what was known before it
            own = weigh_all(settings, own, alone.history)
        for side in ("up", "down", "plus_on_a"):
            np.testing.assert_array_equal(getattr(left, side), getattr(own.votes, side))


def test_a_fit_to_the_votes_of_some_has_nobody_else_s_after_a_withdrawal_either(tmp_path):
    settings, ledger = named_run.start(tmp_path, M=2)
    with ledger:
        drive(settings, ledger, 2)
        assert withdrawals.withdraw(ledger, "op", WHO, settings).votes
        drive(settings, ledger, 3)
        sql = "SELECT panelist FROM panelists WHERE pseudonym = 'panel-0'"
        (only,) = (row["panelist"] for row in ledger.query(sql))
        *_, (alone, _) = replay.retell(ledger, settings, {only})
        cast = sum(
            vote.panelist == only for step in range(3) for vote in counting.counted(ledger, step)
        )
        fitted = alone.carried.votes
        assert fitted.up.sum() + fitted.down.sum() == cast > 0


def test_her_votes_alone_have_taught_nothing_once_they_are_withdrawn(tmp_path):
    settings, ledger = named_run.start(tmp_path, M=2)
    with ledger:
        drive(settings, ledger, 2)
        sql = "SELECT panelist FROM panelists WHERE pseudonym = ?"
        hers = {row["panelist"] for row in ledger.query(sql, (WHO,))}
        assert replay.fold_votes(ledger, hers)[1] > 0
        withdrawals.withdraw(ledger, "op", WHO, settings)
        moved, votes = replay.fold_votes(ledger, hers)
        assert votes == 0 and not moved["z"].any()


def test_what_withdrawn_votes_had_shown_is_no_evidence_later(tmp_path):
    settings, ledger = named_run.start(tmp_path, M=2)
    with ledger:

        def ask(judge, until_step):
            panel = PanelEvaluator(VoteService(ledger), [judge] * 2)
            go(settings, ledger, MarkedPolicy(settings), panel, until_step=until_step)
            return taught_taste.last_findings(ledger).factor

        before = ask(Likes(",", -5.0), 2)
        for name in ("panel-0", "panel-1"):
            withdrawals.withdraw(ledger, "op", name, settings)
        assert before > 4 > ask(Likes(",", 0.0), 3)


def test_what_people_read_of_a_run_counts_her_votes_no_longer(tmp_path):
    settings, ledger = named_run.start(tmp_path, M=2)
    with ledger:
        drive(settings, ledger, 3)
        page, others = overview.overview(vote_rows.read_evidence(ledger)), read_others(ledger)
        hers = withdrawals.withdraw(ledger, "op", WHO, settings).votes
        after = overview.overview(vote_rows.read_evidence(ledger))
        assert after["progress"] == page["progress"] | {"votes": page["progress"]["votes"] - hers}
        assert (
            read_others(ledger) == list(vote_export.export_votes(ledger)) == others
        )  # all but hers
        assert f"{hers} withdrawn since" in status.read_results(ledger).of_budget
        cast = taught_taste.read(ledger).votes
        drive(settings, ledger, 4)  # its words are of the fit without hers
        o = settings.section
        assert taught_taste.read(ledger).votes == cast - hers + o.K * o.N * o.M
        fitted = replay.replay_state(ledger, settings).carried.votes
        assert fitted.up.sum() + fitted.down.sum() == 4 * o.K * o.N * o.M - hers


def read_others(ledger):
    return [row for row in vote_export.export_votes(ledger) if row["panelist"] != WHO]


def test_voters_who_could_have_turned_a_step_are_those_whose_votes_stand(tmp_path):
    settings, ledger = named_run.start(tmp_path, M=2)
    with ledger:
        drive(settings, ledger, 3)
        her = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = ?", (WHO,))[0]
        past = replay.replay_state(ledger, settings).history
        withdrawals.withdraw(ledger, "op", WHO, settings)
        drive(settings, ledger, 4)
        left = replay.replay_state(ledger, settings).history.verdicts[:, : len(past.steps)]
        hers = np.array([voter == her["panelist"] for voter in past.voters])
        assert past.verdicts[hers].any() and not left[hers].any()
        assert (left[~hers] == past.verdicts[~hers]).all()


def test_weights_improved_from_the_start_on_what_was_left_have_learned_nothing_from_her(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        drive(settings, ledger, 2)

        def improve():
            theta.append_adopted(ledger, replay.fold(ledger), named_run.adoption(ledger, 2))
            return theta.last_adopted(ledger)["number"]

        def withdraw():
            found = withdrawals.withdraw(ledger, "op", WHO, settings, weights=True)
            return len(found.improved), found.removed

        assert improve() == 0 and withdraw() == (1, True)
        assert improve() == 1 and withdraw() == (1, False)
        assert theta.last_adopted(ledger)["number"] == 1 and verification.verify(ledger).ok


def test_adopted_weights_are_recommended_from_the_step_on_after_which_they_came(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        drive(settings, ledger, 2)
        before = theta.recommended_digests(ledger)
        moved = {name: 2 * value for name, value in replay.fold(ledger).items()}
        theta.append_adopted(ledger, moved, named_run.adoption(ledger, 2))
        now = theta.recommended_digests(ledger)
        assert now[:2] == before[:2] == theta.updated_digests(ledger)[:2]
        assert now[2:] == [theta.recommended_digest(ledger)] != before[2:]
        drive(settings, ledger, 4)
        again = {name: 3 * value for name, value in moved.items()}
        theta.append_adopted(ledger, again, named_run.adoption(ledger, 4))
        for until, wanted in ((2, moved), (3, moved), (4, again), (None, again)):
            found = replay.fold(ledger, until)
            assert all((found[name] == value).all() for name, value in wanted.items()), until


def test_the_mix_adopted_again_has_learned_from_who_voted_only_after_what_it_replaces(tmp_path):
    """She came after the first adoption, and withdrew before the mix took its place."""
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        for judges, until, came_from in ((1, 2, theta.RECOMMENDED), (3, 8, theta.UPDATED)):
            panel = PanelEvaluator(VoteService(ledger), [FEWER_COMMAS] * judges)
            go(settings, ledger, MarkedPolicy(settings), panel, until_step=until)
            if judges == 3:
                assert not between_rounds.begin(ledger).taken_back
                assert not withdrawals.withdraw(ledger, "op", WHO, settings).improved
                assert between_rounds.begin(ledger).taken_back
            body = named_run.adoption(ledger, until)
            body["begun"]["from"] = came_from
            theta.append_adopted(ledger, replay.fold_updates(ledger), body)
        found = withdrawals.withdraw(ledger, "op", WHO, settings, weights=True)
        assert len(found.improved) == 1 and found.removed


def test_where_voters_weigh_by_each_other_s_votes_no_later_fit_has_hers_either(tmp_path):
    settings, ledger = named_run.start(tmp_path, weighting="skill")
    with ledger:
        drive(settings, ledger, 3)
        rounds, state = history(ledger), replay.replay_state(ledger, settings)
        her = ledger.query("SELECT panelist FROM panelists WHERE pseudonym = 'panel-1'")[0]
        hers = [
            vote.panelist == her["panelist"]
            for step in range(3)
            for vote in sorted(counting.counted(ledger, step), key=lambda each: each.k)
        ]
        assert withdrawals.withdraw(ledger, "op", "panel-1", settings).votes == sum(hers) > 0
        drive(settings, ledger, 4)
        assert history(ledger)[:3] == rounds and verification.verify(ledger).ok
        after = replay.replay_state(ledger, settings).carried
        for record in (state.carried, withdrawals.votes_left(ledger, settings, state), after):
            given = (record.votes.up + record.votes.down)[: len(hers)] > 0
            assert given.any() and set(given[hers]) == {record is state.carried}


def test_a_withdrawal_is_of_somebody_with_votes(tmp_path):
    settings, ledger = named_run.start(tmp_path)
    with ledger:
        with pytest.raises(UsageError, match="nobody is called 'Zoe'"):
            withdrawals.withdraw(ledger, "szpo invite", "Zoe", settings)
        drive(settings, ledger, 1)
        service = VoteService(ledger)
        service.enroll("person", "Zoe")
        with pytest.raises(UsageError, match="Zoe has no votes; leave out --with-votes"):
            withdrawals.withdraw(ledger, "szpo invite", "Zoe", settings)
        hers = [row["vote"] for row in ledger.query(
            "SELECT vote FROM votes JOIN assignments USING (assignment) "
            "JOIN panelists USING (panelist) WHERE pseudonym = ?", (WHO,))]  # fmt: skip
        for vote in hers:  # an operator excluded them, which leaves earlier fits as they are
            service.amend(vote, "exclude", "asked to", "op")
        assert withdrawals.withdraw(ledger, "szpo invite", WHO, settings).votes == len(hers) > 0
        assert len(withdrawals.withdrawals(ledger)) == 1


def test_several_improved_weights_are_one_list():
    said = str(withdrawals.Learned(9, (0, 1), ("a" * 64, "b" * 64)))
    assert f"round 1 on and improved weights {'a' * 12}, {'b' * 12} had learned" in said
