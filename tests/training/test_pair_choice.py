"""Rounds of pairs that are chosen among the policy's own answers."""

from dataclasses import replace

import numpy as np
import pytest

from szpo.analysis import agreement, improvement, vote_rows
from szpo.failpoints import InjectedError, arm
from szpo.ledger import theta
from szpo.ledger.theta import recommended_digests
from szpo.optim import informative, named_features
from szpo.optim.informative import NOISE
from szpo.replay import replay, verification
from szpo.runs import pair_choice, services
from szpo.taste import Explanation, Feature, Taste
from szpo.types import FEATURE_GRID, Answer, Comparison, Prompt
from szpo.voting import blind, counting, withdrawals
from szpo.voting.blind import NEEDED, factor_against
from szpo.voting.service import VoteService
from tests.support import named_run
from tests.support.named_run import MarkedPolicy
from tests.support.quadratic import ValueJudge, go, history, open_step, panel_of
from tests.support.tampering import change_event, failure_of, rewrite

ROWS = {"D": 1, "asking_noise": None}


def drive(settings, ledger, policy=None, **how):
    own = policy or MarkedPolicy(settings)
    return go(settings, ledger, own, panel_of(ledger, judge=named_run.Likes()), **how)


def pools(ledger):
    return [event["body"]["pool"] for event in ledger.events("generated")]


@pytest.mark.full
def test_chosen_pairs_teach_the_taste_and_the_record_says_why_they_were_shown(tmp_path):
    settings, ledger = named_run.start(tmp_path, **ROWS)
    with ledger:
        policy = MarkedPolicy(settings)
        drive(settings, ledger, policy, until_step=24)
        found = replay.replay_state(ledger, settings).carried.fit.named
        top = named_features.claims(found, settings.features)[0]
        assert (top.feature, top.more) == ("exclamations", True) and top.chance > 0.6
        assert [row["pairing"] for row in ledger.steps()] == ["pool"] * 24
        every = pools(ledger)
        assert [pool["after"] for pool in every] == list(range(24))
        assert all(len(row) == pair_choice.ANSWERS for p in every for row in p["candidates"])
        assert verification.verify(ledger).ok
        at = services.resume(ledger, settings, policy)
        assert at.state.carried.votes.x.shape == (96, settings.features.columns)


@pytest.mark.full
def test_a_verdict_on_a_chosen_pair_is_worth_more_than_on_one_by_chance(tmp_path, monkeypatch):
    worth = []
    for chance in (informative.BY_CHANCE, 1):
        monkeypatch.setattr(informative, "BY_CHANCE", chance)
        settings, ledger = named_run.start(tmp_path, f"{chance}.db", **ROWS)
        with ledger:
            drive(settings, ledger, until_step=6)
            worth.append(sum(sum(pool["worth"]) for pool in pools(ledger)))
    assert worth[0] > 1.2 * worth[1]


@pytest.mark.full
def test_texts_reported_as_harmful_are_no_candidates_again(tmp_path):
    settings, ledger = named_run.start(tmp_path, **ROWS)
    with ledger:
        drive(settings, ledger, until_step=1)
        asked = Comparison("c" * 32, 1, 0, 0, ledger.comparisons(0)[0].rows)
        open_step(ledger, settings.change(K=1), [asked])
        service = VoteService(ledger)
        (seat,) = service.sheet(service.enroll("person", "ada"), 8)
        service.cast(seat.id, "skip", "k" * 16, skip_reason=counting.HARMFUL)
        row = asked.rows[0]
        assert pair_choice.withdrawn(ledger) == {row.plus.text, row.minus.text}


def test_about_equally_long_answers_come_first_while_there_are_any():
    short, long, longer, other = (
        Answer(" ".join(["word"] * n) + mark)
        for n, mark in ((5, ""), (20, ""), (22, ""), (5, "!"))
    )
    even = pair_choice._pairs([[short, long, longer, other]], even=True)
    assert even == [(short, other), (long, longer)]
    assert pair_choice._pairs([[short, long]], even=True) == [(short, long)]
    assert len(pair_choice._pairs([[short, long, longer, other]], even=False)) == 6


@pytest.mark.full
def test_some_rows_come_again_with_sides_swapped_and_both_verdicts_count(tmp_path):
    settings, ledger = named_run.start(tmp_path, **ROWS)
    with ledger:
        policy, drawn = MarkedPolicy(settings), []
        plain = policy.rollout
        policy.rollout = lambda prompts, shifts, *, seed: (
            drawn.extend(map(len, prompts)) or plain(prompts, shifts, seed=seed)
        )
        drive(settings, ledger, policy, until_step=20, repeats=0.4)
        again = ledger.query(
            "SELECT c.comparison, c.repeats, c.step, o.step AS before, a.plus_side, "
            "b.plus_side AS side, a.panelist, b.panelist AS other FROM comparisons c "
            "JOIN comparisons o ON o.comparison = c.repeats "
            "JOIN assignments a ON a.comparison = c.comparison "
            "JOIN assignments b ON b.comparison = o.comparison"
        )
        assert 10 < len(again) < 50 and len({row["repeats"] for row in again}) == len(again)
        assert all(row["before"] < row["step"] for row in again)
        assert sum(drawn) == pair_choice.ANSWERS * (80 - len(again))  # none for what comes again
        assert all(row["plus_side"] != row["side"] for row in again)
        for row in again:
            now, earlier = (ledger.comparison(row[name]) for name in ("comparison", "repeats"))
            assert now.rows == earlier.rows
        state = replay.replay_state(ledger, settings)
        assert state.votes == 80 and len(state.carried.votes.x) == 80
        assert verification.verify(ledger).ok
        found = vote_rows.read_evidence(ledger)
        alike = agreement.agreement(found)["same"]
        own = sum(voter.repeats for voter in found.totals.voters.values())
        assert own == sum(row["panelist"] == row["other"] for row in again)
        assert 0 < alike.of <= len(again) - own


class MovingMarks(MarkedPolicy):
    def move_to(self, theta):
        self.theta_now = {name: np.array(value) for name, value in theta.items()}


def test_check_rows_ask_about_prompts_set_aside_and_rows_that_come_again_about_their_own(tmp_path):
    settings, ledger = named_run.start(tmp_path, **ROWS)
    how = {"checks": 0.4, "repeats": 0.5, "aside": (Prompt.user("set aside"),)}
    with ledger:
        drive(settings, ledger, MovingMarks(settings), until_step=1, **how)
        more = {"z": np.ones(5, dtype=np.float32)}
        theta.append_adopted(ledger, more, named_run.adoption(ledger, 1))
        drive(settings, ledger, MovingMarks(settings), until_step=4, **how)
        rows = [each for step in range(1, 4) for each in ledger.comparisons(step)]
        checks = {each for pool in pools(ledger)[1:] for each in pool["checks"]}
        apart = {each.id for each in rows if each.rows[0].prompt in how["aside"]}
        assert apart == checks and {*range(1, 12)} >= {len(checks)}
        again = [each for each in rows if each.repeats]
        assert again and not checks & {each.id for each in again}


LIKED = Taste(
    (Feature("exclamations", FEATURE_GRID, -FEATURE_GRID, FEATURE_GRID, 0),),
    (Explanation(1, ((0, FEATURE_GRID),)),), (), "",
)  # fmt: skip
NAMED = {"features": named_run.with_names(), "kl_radius": 2.0, "asking_noise": NOISE}


@pytest.mark.full
@pytest.mark.parametrize("changes", [{}, NAMED])
def test_check_rows_compare_the_adopted_weights_with_the_start_on_prompts_apart(tmp_path, changes):
    settings, ledger = named_run.start(tmp_path, **{**ROWS, **changes})
    aside = tuple(Prompt.user(f"set aside {i}") for i in range(3))
    with ledger:
        policy = MovingMarks(settings)
        drive(settings, ledger, policy, until_step=2, checks=0.25, aside=aside)
        more = {"z": np.ones(5, dtype=np.float32)}  # of every mark
        figures = {"score_before": 0.0, "score": 1.0, "nats": 1.0, "guards": []}
        body = {**named_run.adoption(ledger, 2), "taste": LIKED.to_json(), **figures}
        theta.append_adopted(ledger, more, body)
        drive(settings, ledger, policy, until_step=12, checks=0.25, aside=aside)
        every, by = pools(ledger), theta.read_adopted(ledger).sha256
        assert [pool.get("policy") for pool in every] == [None] * 2 + [by] * 10
        ids = {each for pool in every[2:] for each in pool["checks"]}
        rows = [each for step in range(12) for each in ledger.comparisons(step)]
        checks = [each for each in rows if each.id in ids]
        assert len(checks) == len(ids) and 2 < len(checks) < 18  # of 40 rows, 10 ± 3 · 2.7
        assert {each.rows[0].prompt for each in checks} == {*aside}
        assert {each.rows[0].prompt for each in rows if each.id not in ids}.isdisjoint(aside)
        assert not any(settings.perturbs(each.step, each.k) for each in checks)
        longer = [len(c.rows[0].plus.text) - len(c.rows[0].minus.text) for c in checks]
        assert np.mean(longer) > 3  # plus is of the adopted weights, wherever it is shown
        assert len(replay.replay_state(ledger, settings).carried.votes.x) == 48
        cast = [vote for step in range(12) for vote in counting.counted(ledger, step)]
        who = next(vote.panelist for vote in cast if vote.comparison in ids)
        hers = sum(vote.panelist == who and vote.comparison in ids for vote in cast)
        (found,) = ledger.query("SELECT pseudonym FROM panelists WHERE panelist = ?", (who,))
        before = blind.read_checks(ledger)
        withdrawals.withdraw(ledger, "szpo invite", found["pseudonym"], settings)
        drive(settings, ledger, policy, until_step=13, checks=0.0, aside=aside)
        after = blind.read_checks(ledger)
        pairs = [each.new + each.start + each.same for each in (before, after)]
        assert pairs[0] - hers == pairs[1]
        assert [each.checks for each in improvement.rounds(ledger)] == [after]
        assert verification.verify(ledger).ok
        spoilt = [*every[2]["checks"], "none"]
    change_event(
        tmp_path / "run.db", "generated", 2, lambda body: body["pool"].update(checks=spoilt)
    )
    rewrite(tmp_path / "run.db")
    assert "notes a check" in str(failure_of(tmp_path / "run.db"))


class LikesFew(ValueJudge):
    """Prefers the answer with fewer marks."""

    def gap(self, comparison):
        (row,) = comparison.rows
        return len(row.minus.text) - len(row.plus.text)


@pytest.mark.full
def test_where_the_panel_prefers_the_start_the_policy_goes_back_to_it(tmp_path):
    found, steps = [], 0
    for name in ("a.db", "killed.db"):
        settings, ledger = named_run.start(tmp_path, name, **ROWS)
        panel = panel_of(ledger, judge=LikesFew())

        def drive(until, settings=settings, ledger=ledger, panel=panel):
            how = {"checks": 0.4, "aside": (Prompt.user("set aside"),)}
            go(settings, ledger, MovingMarks(settings), panel, until_step=until, **how)

        with ledger:
            drive(2)
            more = {"z": 2 * np.ones(5, np.float32)}
            theta.append_adopted(ledger, more, named_run.adoption(ledger, 2))
            if name == "killed.db":
                drive(steps - 1)
                with arm("cp10:raise"), pytest.raises(InjectedError):
                    drive(steps)  # killed in the transaction that returns
            drive(8)
            (back,) = [event["body"] for event in ledger.events(theta.RETURNED)]
            steps, (new, start) = back["steps"], (back["new"], back["start"])
            assert 3 <= steps < 8 and start >= 5
            assert factor_against(new, start) >= NEEDED
            assert theta.read_adopted(ledger) is None
            assert theta.read_adopted(ledger, steps - 1) is not None
            assert not any(replay.fold(ledger)["z"]) and any(replay.fold(ledger, steps - 1)["z"])
            ends = recommended_digests(ledger)
            assert {*ends[steps:]} == {ends[0]} != {ends[steps - 1]}
            assert not any("policy" in pool for pool in pools(ledger)[steps:])
            assert improvement.read(ledger).sentence == blind.why_back(ledger)
            assert verification.verify(ledger).ok
            found.append((history(ledger), back))
    assert found[0] == found[1]
    spoil = {"checks": []}
    change_event(tmp_path / "a.db", "generated", 2, lambda body: body["pool"].update(spoil))
    rewrite(tmp_path / "a.db")
    assert "does not fit the votes on check pairs" in str(failure_of(tmp_path / "a.db"))


@pytest.mark.full
def test_a_panelist_is_shown_other_rows_before_one_that_they_have_judged(tmp_path):
    settings, ledger = named_run.start(tmp_path, **ROWS)
    with ledger:
        drive(settings, ledger, until_step=1)
        before = ledger.comparisons(0)
        sql = "SELECT panelist FROM assignments WHERE comparison = ?"
        (first,) = ledger.query(sql, (before[0].id,))
        rows = [
            replace(before[0], id="d" * 32, step=1, k=0, repeats=before[0].id),
            *(replace(each, id=f"{each.k}" * 32, step=1) for each in before[1:]),
        ]
        open_step(ledger, settings, rows)
        sheet = VoteService(ledger).sheet(first["panelist"], 8)
        assert [seat.comparison for seat in sheet].index("d" * 32) == 3
