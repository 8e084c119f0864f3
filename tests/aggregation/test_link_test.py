"""Links and their inverses; the test of the logistic link on triads."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from szpo.aggregation import link_test
from szpo.aggregation.links import link
from szpo.analysis import agreement, evidence
from szpo.cli.app import call
from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.intervals import share
from szpo.ledger import orders
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.reports import html_report
from szpo.runs import link_triads, model_process
from szpo.voting import lease, triads
from szpo.voting import triads as triad_votes
from szpo.voting.casting import VoteRequest
from szpo.voting.service import VoteService
from szpo_ui.operator import page as operator_page
from tests.support import browser, yard_run
from tests.support.asking import seat_and_vote
from tests.support.quadratic import (
    PROMPTS,
    ValueJudge,
    go,
    history,
    panel_of,
    parts_of,
    start,
)

# ---- the arithmetic ----


def test_the_law_is_that_of_bradley_terry_given_the_margins():
    """Every table of 3 votes an edge at x = (.7, −.4), enumerated, against the closed form."""
    m, a, b = 3, 0.7, -0.4
    p = [1 / (1 + np.exp(-x)) for x in (a, b, a + b)]
    law = {}
    ways = (1, 3, 3, 1)
    for ks in itertools.product(range(m + 1), repeat=3):
        chance = np.prod([ways[k] * q**k * (1 - q) ** (m - k) for k, q in zip(ks, p, strict=True)])
        margins = law.setdefault((ks[0] + ks[2], ks[1] + ks[2]), {})
        margins[ks[2]] = margins.get(ks[2], 0.0) + float(chance)
    votes = np.full((1, 3), float(m))
    for (first, second), chances in law.items():
        total = sum(chances.values())
        mean = sum(k * c for k, c in chances.items()) / total
        variance = sum((k - mean) ** 2 * c for k, c in chances.items()) / total
        x, y = link_test.differences(np.array([1.0 * first]), np.array([1.0 * second]), votes)
        weight = float((3 * x * y * (x + y))[0])
        k = min(chances)
        found = link_test.curvature(np.array([[first - k, second - k, k]], dtype=float), votes)
        assert found.score == pytest.approx(weight * (k - mean), abs=1e-9)
        assert found.information == pytest.approx(weight**2 * variance, abs=1e-9)


@given(st.integers(0, 2**32))
def test_names_of_batches_and_sides_do_not_matter(seed):
    """A triad read from its other end, or with plus and minus exchanged, tells the same."""
    rng = np.random.default_rng(seed)
    votes = rng.integers(1, 9, (6, 3)).astype(float)
    won = rng.binomial(votes.astype(int), 0.6).astype(float)
    result = link_test.curvature(won, votes)
    # Exchanged: every difference changes its sign.
    other = link_test.curvature(votes - won, votes)
    assert other.z == pytest.approx(result.z, abs=1e-6)
    # (c, b, a) for (a, b, c): ab is bc read backwards.
    back = link_test.curvature((votes - won)[:, [1, 0, 2]], votes[:, [1, 0, 2]])
    assert back.z == pytest.approx(result.z, abs=1e-6)
    # (b, a, c): ab backwards, bc and ac change places.
    order = np.stack([(votes - won)[:, 0], won[:, 2], won[:, 1]], -1)
    turned = link_test.curvature(order, votes[:, [0, 2, 1]])
    assert turned.z == pytest.approx(result.z, abs=1e-6)


def reject(panel, far, *, edge, votes, repetitions, seed):
    """Share of simulated panels that the test rejects at 5 %, and their median γ.

    Outer batches are ``far`` logits apart, the middle one halfway, give or take .3 of it.
    """
    rng = np.random.default_rng(seed)
    shape = (repetitions, votes // (3 * edge))
    half = rng.choice([-far / 2, far / 2], size=(*shape, 1))
    inner = half + 0.3 * far * rng.normal(size=(*shape, 2))
    x = np.concatenate([inner, inner.sum(-1, keepdims=True)], axis=-1)
    chosen = link("logistic" if panel == "lapse .2" else panel)
    chance = chosen.prob(x / (4 * chosen.slope0))
    if panel == "lapse .2":
        chance = 0.1 + 0.8 * chosen.prob(x / 0.8)
    won = rng.binomial(edge, chance).astype(float)
    found = link_test.curvature(won, np.full(won.shape, float(edge)))
    return (found.p < link_test.LEVEL).mean(), np.median(found.score / found.information)


@pytest.mark.parametrize("edge", [3, 20])
def test_five_of_a_hundred_logistic_panels_are_doubted(edge):
    size, _ = reject("logistic", 2.5, edge=edge, votes=480, repetitions=2000, seed=3)
    assert 0.02 < size < 0.065  # up to three standard errors above 5 %


def test_a_cauchit_panel_and_a_lapsing_one_are_found_below_and_a_linear_one_above():
    how = {"edge": 20, "votes": 1000, "repetitions": 200, "seed": 4}
    for panel, far, sign in (("cauchit", 4.0, -1), ("lapse .2", 4.0, -1), ("linear", 2.0, 1)):
        power, curvature = reject(panel, far, **how)
        assert power > 0.4, panel
        assert np.sign(curvature) == sign


def test_too_few_triads_say_nothing_and_no_votes_no_scale():
    few = link_test.check(np.full((3, 3), 2.0), np.full((3, 3), 3.0), ties=1, again=share(0, 0))
    assert few.fits is None and few.warning is None and "too little" in few.line()
    none = link_test.check(np.zeros((0, 3)), np.zeros((0, 3)), ties=0, again=share(3, 4))
    assert none.scale is None and none.votes == 0
    assert none.own_scale == pytest.approx(1.763, abs=1e-3)
    assert none.line().endswith("apart by 1.8 for one panelist, in logits")


def test_a_clear_misfit_names_the_setting_that_helps():
    """Nobody is ever sure of the outer pair, though the inner ones are clear."""
    votes = np.full((20, 3), 10.0)
    won = np.tile([8.0, 8.0, 8.0], (20, 1))
    found = link_test.check(won, votes, ties=0, again=share(0, 0))
    assert found.fits is False and found.curvature < 0
    assert "optimizer.rule=sign" in found.warning and "branch" in found.warning
    assert found.low < found.curvature < found.high < 0
    # 80 of 100 panels with a γ so large are found: a figure on the scale of γ's own interval.
    assert found.detectable == pytest.approx(
        (found.high - found.low) / 2 / 1.96 * 2.8016, rel=1e-3
    )
    fine = link_test.check(
        np.tile([7.0, 7.0, 8.5], (20, 1)).round(), votes, ties=0, again=share(0, 0)
    )
    assert fine.fits and fine.warning is None and "not contradicted" in fine.line()


# ---- orders and answers ----


@pytest.fixture
def driven(tmp_path):
    chosen, ledger, policy = start(tmp_path)
    go(chosen, ledger, policy, until_step=3)
    source = parts_of(chosen, policy, PromptSet(PROMPTS, ()))
    yield chosen, ledger, source
    ledger.close()


def make_triads(ledger, source, **body):
    number = orders.place_order(ledger, "triads", "op", body)
    model_process.fulfil(ledger, source, lambda _: None)
    order = orders.get(ledger, number)
    return [ledger.comparison(c) for c in orders.comparisons(order)]


def answer_all(ledger, judges):
    return link_triads.answer(PanelEvaluator(VoteService(ledger), judges, name="tester"))


@pytest.mark.full
def test_three_batches_stand_in_three_comparisons_and_teach_nothing(driven):
    chosen, ledger, source = driven
    before = history(ledger)
    found = make_triads(ledger, source, triads=5)
    assert len(found) == 15 and {c.kind for c in found} == {"repeat"}
    for ab, bc, ac in zip(found[0::3], found[1::3], found[2::3], strict=True):
        assert [r.plus for r in ab.rows] == [r.plus for r in ac.rows]
        assert [r.minus for r in ab.rows] == [r.plus for r in bc.rows]
        assert [r.minus for r in bc.rows] == [r.minus for r in ac.rows]
        assert [r.prompt for r in ab.rows] == [r.prompt for r in bc.rows]
    assert answer_all(ledger, [ValueJudge()] * 4) == 60
    assert history(ledger) == before and verification.verify(ledger).ok
    go(chosen, ledger, source.policy, until_step=4)
    assert verification.verify(ledger).ok


@pytest.mark.full
def test_the_same_order_in_the_same_run_makes_the_same_triads(tmp_path):
    found = []
    for name in ("one.db", "two.db"):
        chosen, ledger, policy = start(tmp_path, name)
        go(chosen, ledger, policy, until_step=2)
        source = parts_of(chosen, policy, PromptSet(PROMPTS, ()))
        found.append(make_triads(ledger, source, triads=6, radius=3))
        answer_all(ledger, [ValueJudge()] * 3)
        found.append(triad_votes.results(ledger))
        ledger.close()
    assert found[0] == found[2] and found[1] == found[3]


def test_sides_are_balanced_and_nobody_meets_a_comparison_twice(driven):
    _, ledger, source = driven
    make_triads(ledger, source, triads=4)
    answer_all(ledger, [ValueJudge()] * 4)
    rows = ledger.query(
        "SELECT a.comparison, count(DISTINCT panelist) AS people, sum(plus_side = 'A') AS left "
        "FROM assignments a JOIN comparisons c USING (comparison) WHERE c.kind = 'repeat' "
        "GROUP BY a.comparison"
    )
    assert {(row["people"], row["left"]) for row in rows} == {(4, 2)}


def test_a_person_meets_each_triad_once_before_any_twice(driven):
    _, ledger, source = driven
    found = make_triads(ledger, source, triads=3)
    service = VoteService(ledger)
    person = service.enroll("person", "ann")
    met = []
    for i in range(4):
        seat = service.calibration(person)
        met.append([c.id for c in found].index(seat.comparison) // 3)
        service.cast(VoteRequest(seat.id, "A", idem=f"key-{i}-0123456789ab"))
    assert sorted(met[:3]) == [0, 1, 2]
    assert triads.choose(ledger, person) is not None


def test_triads_are_no_repeats_in_the_figures_of_agreement(driven):
    _, ledger, source = driven
    make_triads(ledger, source, triads=4)
    answer_all(ledger, [ValueJudge()] * 3)
    rows = evidence.read(ledger)
    assert agreement.agreement(rows)["repeat"].of == 0
    assert all(row["repeat"].of == 0 for row in agreement.panelists(rows))


def test_a_panel_of_another_link_is_found_and_everybody_is_warned(driven):
    """Eight of ten prefer the first batch of every pair, the outer one too."""
    chosen, ledger, source = driven
    comparisons = make_triads(ledger, source, triads=20)
    service = VoteService(ledger)
    people = [service.enroll("person", f"p-{i}") for i in range(10)]
    with ledger.transaction("votes"):
        for comparison, (i, person) in itertools.product(comparisons, enumerate(people)):
            choice = "AB"[(i + (i < 2)) % 2]
            seat_and_vote(ledger, comparison, person, [choice], "AB"[i % 2])
    found = triad_votes.results(ledger)
    assert found.fits is False and found.curvature < 0
    assert found.votes == 20 * 3 * 10
    # Two of ten votes differ: 28 + 1 of 45 pairs agree.
    assert found.scale == pytest.approx(link_test.spread(29 / 45))
    page = html_report.render(ledger)
    assert "optimizer.rule=sign" in page and "Warning" in page
    seen = []
    go(chosen, ledger, source.policy, until_step=4, on_step=seen.append)
    assert "logistic link" in seen[-1].extra["link"]


def test_without_triads_nothing_is_reported(driven):
    chosen, ledger, source = driven
    assert triad_votes.results(ledger) is None and triad_votes.note(ledger) == {}
    assert triads.choose(ledger, "nobody") is None
    seen = []
    go(chosen, ledger, source.policy, until_step=4, on_step=seen.append)
    assert "link" not in seen[-1].extra


def test_a_comparison_asked_twice_gives_the_panelists_own_scale(tmp_path):
    """A triad answered, and then one training comparison again: 1 of 1 the same."""
    chosen, ledger, policy = start(tmp_path)
    go(chosen, ledger, policy, panel_of(ledger, 1), until_step=3)
    make_triads(ledger, parts_of(chosen, policy, PromptSet(PROMPTS, ())), triads=1)
    service = VoteService(ledger)
    panelist = service.enroll("simulated", "panel-0")
    kinds = []
    for i in range(20):
        seat = service.calibration(panelist)
        comparison = ledger.comparison(seat.comparison)
        kinds.append(comparison.repeats is not None and comparison.kind == "repeat")
        first = None
        if kinds[-1]:
            first = ledger.query(
                "SELECT v.choice, a.plus_side FROM assignments a JOIN votes v USING (assignment) "
                "WHERE a.comparison = ? AND a.panelist = ?",
                (comparison.repeats, panelist),
            )[0]
        choice = "A"
        if first is not None:
            same = first["plus_side"] == seat.plus_side
            choice = first["choice"] if same else {"A": "B", "B": "A"}[first["choice"]]
        service.cast(VoteRequest(seat.id, choice, idem=f"key-{i}-0123456789ab"))
        if first is not None:
            break
    assert kinds[:3] == [False] * 3 and kinds[-1]
    assert triad_votes.results(ledger).own_scale == pytest.approx(link_test.spread(1.0))


def test_without_prompts_the_order_says_why(driven):
    _, ledger, source = driven
    messages = []
    orders.place_order(ledger, "triads", "op")
    model_process.fulfil(ledger, replace(source, prompts=PromptSet((), ())), messages.append)
    assert "training prompts are not here" in orders.results(ledger, "triads")[0].error
    assert triad_votes.results(ledger) is None


@pytest.mark.full
def test_the_commands_probe_voters_and_show(tmp_path, capsys):
    """A panel of five in the process answers both triads at once: 2 · 3 · 5 answers."""
    path = str(yard_run.finished(tmp_path))
    assert call(["probe", path, "--triads", "2", "--json"]) == 0
    result = capsys.readouterr()
    assert "30 answers" in result.err
    found = json.loads(result.out[result.out.index("{") :])
    assert found["fits"] is None and 0 < found["triads"] <= 2
    assert call(["show", path]) == 0
    assert "too little to tell whether the logistic link fits" in " ".join(
        capsys.readouterr().out.split()
    )
    assert call(["voters", path, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["votes"] for row in rows) == 24 and {row["in_use"] for row in rows} == {1.0}
    assert call(["voters", path]) == 0
    assert "rationality" in capsys.readouterr().out
    assert call(["verify", path]) == 0
    capsys.readouterr()
    with Ledger.open(path) as ledger, lease.hold(ledger):
        assert call(["probe", path, "--triads", "1"]) == 0
    assert "the process that drives the run makes its comparisons" in capsys.readouterr().err


def test_the_operators_page_warns(tmp_path, monkeypatch):
    stage = browser.make(tmp_path / "run.db", clock=browser.MovableClock())
    stage.advance()
    assert "logistic link" not in operator_page.page(stage.site)
    votes = np.full((20, 3), 10.0)
    for won, words in (
        (8.0, "The logistic link does not fit."),
        (5.0, "20 triads, 600 votes: too little"),
    ):
        found = link_test.check(np.full((20, 3), won), votes, ties=0, again=share(0, 0))
        monkeypatch.setattr(triad_votes, "results", lambda ledger, found=found: found)
        assert words in operator_page.page(stage.site)


NAMES = ["logistic", "probit", "cauchit", "cloglog", "linear:7"]
REACH = {"probit": 5 / 6}


@pytest.mark.parametrize("name", NAMES)
def test_a_link_is_fair_at_zero_symmetric_increasing_and_inverted_to_1e_9(name):
    chosen, x, h = link(name), np.linspace(0, 6, 500), 1e-5
    assert float(chosen.prob(0.0)) == 0.5
    assert abs(chosen.prob(-x) - (1 - chosen.prob(x))).max() < 1e-15
    assert (np.diff(chosen.prob(x)) > 0).all()
    slope = (chosen.prob(h) - chosen.prob(-h)) / (2 * h)
    assert float(slope) == pytest.approx(chosen.slope0, rel=1e-8)
    x = 0.9999 * np.stack([x, -x]) * REACH.get(name, 1.0)
    found = chosen.inverse(chosen.prob(x))
    assert found.shape == x.shape and abs(found - x).max() < 1e-9
    if not name.startswith("linear"):
        assert chosen.inverse([0.0, 0.5, 1.0]).tolist() == [-np.inf, 0.0, np.inf]


def test_known_values():
    assert float(link("logistic").prob(np.log(3))) == pytest.approx(0.75, abs=1e-15)
    assert float(link("probit").prob(1.959963984540054)) == pytest.approx(0.975, abs=1e-15)
    assert float(link("cauchit").prob(1.0)) == pytest.approx(0.75, abs=1e-15)
    # ½[1 − 2^(−e) + 2^(−1/e)] from the definition 1 − exp(−eˣ ln 2) at x = 1.
    assert float(link("cloglog").prob(1.0)) == pytest.approx(
        0.5 * (1 - 2**-np.e + 2 ** (-1 / np.e)), abs=1e-15
    )
    assert link("linear:2").prob([-9.0, 1.0, 9.0]).tolist() == [0.0, 0.75, 1.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weibull", "unknown; choose one of logistic"),
        ("linear:wide", "needs a number"),
        ("linear:-1", "positive width"),
    ],
)
def test_bad_names_are_refused(name, words):
    with pytest.raises(UsageError, match=words):
        link(name)
