"""A panel in one line, its flaws by hand, and that old panels vote as they always did."""

import hashlib
from math import exp

import numpy as np
import pytest
from scipy.special import ndtri

from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import assemble
from szpo.seeds import derive
from szpo.types import Answer, Comparison, Prompt, Row
from szpo.voting import panel_evaluator
from szpo.voting.evaluator import check_judge
from szpo_simulators.panels.panel import SimulatedPanel, build, members, read_flaws
from szpo_simulators.panels.raters import Rater, law
from tests.support import yard_run
from tests.support.cases import case

SEA, LAND = Answer("the sea the sea"), Answer("land")


def comparison(i: int, plus: Answer = SEA, minus: Answer = LAND, step: int = 0) -> Comparison:
    return Comparison(f"c{i}", step, 0, i, (Row(Prompt.user("?"), plus, minus),) * 2)


def panel(name: str, size: int = 5, beta: float = 3.0) -> SimulatedPanel:
    return build(name, reward="keyword:sea,sun", size=size, beta=beta)


def verdicts(judge, count: int = 1500, side: str = "A", step: int = 0) -> tuple[float, float]:
    letters = [
        judge.judge(comparison(i, step=step), panelist="p", plus_side=side,
                    key=derive(0, "vote", step=i))
        for i in range(count)
    ]  # fmt: skip
    return letters.count(side) / count, letters.count("tie") / count


GOLDEN = {
    # 120 comparisons × 5 members by the program before members could have flaws.
    "bt70": "70a641a38001fb4f",
    "half-beta": "5cdaa142ac2069c3",
    "lapse10": "163b70411dbf6ad4",
    "hostile": "19fa90425e1a2560",
    "hostile2": "2038de571aeb1818",
    "mtbench": "6f777420e82f0f1f",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_panels_without_flaws_vote_as_before_there_were_any(name):
    words = ("sea", "land", "sun", "sky")
    asked = panel(name)
    reported = []
    for i in range(120):
        plus, minus = Answer(f"{words[i % 4]} {words[i % 3]}"), Answer(words[i % 5 % 4])
        one = comparison(i, plus, minus, step=i)
        for j, judge in enumerate(asked.judges):
            key, side = derive(j, "vote", step=i), "AB"[(i + j) % 2]
            how = {"panelist": "p", "plus_side": side, "key": key}
            reported.append(judge.judge(one, **how)[0])
    assert hashlib.sha256("".join(reported).encode()).hexdigest()[:16] == GOLDEN[name]


LINES = (
    "bt70+side=.3+lapse=.1+hostile=1",
    "bt70+spread=.7+words=.05+noise=gaussian+random=1+lazy=1",
    "half-beta+jnd=.5+itemtie=.4+item=1.2+fatigue=.5+drift=-1",
    "mtbench+other=-1*keyword:sea+types=.4+turn=.5+ring=2",
)


@pytest.mark.parametrize("line", LINES)
def test_the_members_of_a_line_are_judges(line):
    for judge in panel(line, size=8).judges:
        check_judge(judge)


def test_a_wrong_line_gets_one_line():
    cases = {
        "bt80": "no simulated panel 'bt80'",
        "bt70+foo=1": "no flaw 'foo'",
        "bt70+side=much": "side='much' is not a number",
        "bt70+side=nan": "is not a number",
        "bt70+hostile=1.5": "is not a whole number",
        "bt70+hostile=-1": "must be 0 or more",
        "bt70+side=1+side=2": "given twice",
        "bt70+types=.5": "need another reward",
        "bt70+types=2+other=-1*sentiment": "types must be a share",
        "bt70+other=-1*sentiment": "nobody has the other taste",
        "bt70+noise=cauchy": "neither gumbel nor gaussian",
        "bt70+equal=coin": "is not same",
        "bt70+sharp=0": "sharp must be above 0",
        "mtbench+jnd=.3": "not both",
        "bt70+lapse=1.2": "lapse is a share",
        "bt70+fatigue=-1": "0 or more",
    }
    for line, words in cases.items():
        with case(line), pytest.raises(UsageError, match=rf"\A[^\n]*{words}[^\n]*\Z"):
            read_flaws(line)


def test_members_come_in_their_order():
    found = members("bt70+hostile=1+lazy=1+random=1+ring=2+other=-1*sentiment+types=.5", 2.0, 9)
    assert [r.taste for r in found] == [0, 0, 1, 1, 0, 0, 0, 1, 1]
    assert [r.beta for r in found] == [2, 2, 2, 2, -2, 0, 0, 20, 20]
    assert [r.ring for r in found] == [False] * 7 + [True] * 2
    assert found[5].side_bias > 40 and found[6].lapse == 1
    # Without another taste a ring wants what is worse.
    assert members("bt70+ring=1", 2.0, 2)[1].beta == -20


def test_temperatures_are_lognormal():
    z = np.log([rater.beta for rater in members("bt70+spread=.7", 2.0, 2000)])
    # Three standard errors of a mean and of a standard deviation.
    assert z.mean() == pytest.approx(np.log(2.0), abs=0.047)
    assert z.std() == pytest.approx(0.7, abs=0.034)
    assert {rater.beta for rater in members("bt70", 2.0, 50)} == {2.0}


@pytest.mark.full
def test_verbosity_adds_logits_per_word_and_rows_are_averaged():
    # β · gap = 3 · .5 (the word sea, of two); 4 words against 1, minus .3 logits each: 1.5 − .9.
    (judge,) = panel("bt70+words=-.3", size=1).judges
    expected = 1 / (1 + exp(-0.6))
    for side in "AB":
        assert verdicts(judge, side=side)[0] == pytest.approx(expected, abs=0.036)


def test_a_threshold_makes_small_differences_ties():
    # Rao and Kupper with η = 1: σ(x − 1), σ(−x − 1) and the rest.
    found = law(Rater(threshold=1.0), [0.0, 2.0, -2.0])
    s = [1 / (1 + exp(-x)) for x in (-1.0, 1.0, -3.0)]
    assert found[0] == pytest.approx([s[0], s[0], 1 - 2 * s[0]])
    assert found[1] == pytest.approx([s[1], s[2], 1 - s[1] - s[2]])
    assert found[2] == pytest.approx(found[1][[1, 0, 2]])
    # Lapses go to ties too; the comparison's own effect scales η.
    lapsed = law(Rater(threshold=1.0, lapse=0.3), 2.0)
    assert lapsed == pytest.approx(0.7 * found[1] + 0.1)
    wide = law(Rater(threshold=1.0, tie_spread=1.0), 2.0, items=np.array([0.0, np.log(2.0)]))
    assert wide == pytest.approx(law(Rater(threshold=2.0), 2.0))


def test_a_rater_after_votes_and_steps_is_less_attentive_and_of_another_taste():
    tired = Rater(beta=2.0, lapse=0.1, fatigue=1.0, drift=-2.0, taste=0.2, turn=0.5).at(50, 100)
    a = exp(-0.5)
    assert tired.beta == pytest.approx(2 * a * exp(-2.0))
    assert tired.lapse == pytest.approx(1 - 0.9 * a)
    assert tired.taste == pytest.approx(0.7)
    assert Rater(taste=0.9, turn=1.0).at(0, 500).taste == 1.0


@pytest.mark.full
def test_attention_falls_with_votes_given_and_taste_turns_with_steps():
    judge = panel("bt70+fatigue=2", size=1).judges[0]
    fresh, late = verdicts(judge)[0], verdicts(judge.after(300))[0]
    assert fresh == pytest.approx(1 / (1 + exp(-1.5)), abs=0.036)
    assert late == pytest.approx(0.5, abs=0.04)


@pytest.mark.full
def test_another_taste_is_another_reward_and_turns_into_it():
    one, two = panel("bt70+types=.5+other=-2*keyword:sea,sun", size=2).judges
    assert verdicts(one)[0] == pytest.approx(1 / (1 + exp(-1.5)), abs=0.036)
    assert verdicts(two)[0] == pytest.approx(1 / (1 + exp(3.0)), abs=0.018)
    (turning,) = panel("bt70+turn=.5+other=-1*keyword:sea,sun", size=1).judges
    # Half way at step 100: the two tastes cancel.
    assert verdicts(turning, step=100)[0] == pytest.approx(0.5, abs=0.04)


@pytest.mark.full
def test_lazy_random_and_colluding_members():
    _, lazy, random, ring, also = panel("bt70+lazy=1+random=1+ring=2", beta=1.0).judges
    assert verdicts(lazy, 200, "A")[0] == 1 and verdicts(lazy, 200, "B")[0] == 0
    assert verdicts(random)[0] == pytest.approx(0.5, abs=0.04)
    # A ring votes alike whatever side plus is on and whatever the key: x = −10 · .5 for the sea.
    same = 0
    for i in range(300):
        how = {"panelist": "p", "key": derive(0, "a", step=i)}
        here = ring.judge(comparison(i), plus_side="A", **how)
        there = also.judge(comparison(i), plus_side="B", **{**how, "key": derive(1, "b", step=i)})
        assert {here, there} in ({"A", "B"}, {"tie"})
        same += here == "B"
    assert same / 300 == pytest.approx(1 / (1 + exp(-5.0)), abs=0.02)


@pytest.mark.full
def test_values_of_going_on_are_misjudged_alike_each_time_and_only_where_an_answer_was_cut():
    """σ(1.5) where both ended; where both were cut, x ~ N(1.5, 2·3²), once a rater and text."""
    (judge,) = panel("bt70+ahead=3", size=1).judges
    assert verdicts(judge)[0] == pytest.approx(1 / (1 + exp(-1.5)), abs=0.036)

    def shares(n):
        """The share of 40 votes for plus on one pair of cut answers, by rater."""
        sea, land = (Answer(text, "length") for text in ("the sea", "the land"))
        return np.array([
            np.mean([
                judge.judge(comparison(i, sea, land), panelist=f"p{rater}", plus_side="A",
                            key=derive(rater, "vote", step=i)) == "A"
                for i in range(40)
            ])
            for rater in range(n)
        ])  # fmt: skip

    found = shares(100)
    felt = 1.5 + np.sqrt(18) * ndtri((np.arange(4000) + 0.5) / 4000)
    chances = 1 / (1 + np.exp(-felt))
    # Four standard errors of a mean of 100 raters; votes by the same chance would spread by .073.
    assert found.mean() == pytest.approx(chances.mean(), abs=4 * chances.std() / np.sqrt(100))
    assert found.std() == pytest.approx(chances.std(), abs=0.05) and chances.std() > 0.35


@pytest.mark.parametrize(("noise", "expected"), [("gumbel", 0.68997), ("gaussian", 0.71420)])
def test_noise_on_values_makes_the_votes_of_its_link(noise, expected):
    """σ(.8) = .68997 and Φ(.8/√2) = .71420."""
    (rater,) = members(f"bt70+noise={noise}", 1.0, 1)
    assert law(rater, 0.8)[0] == pytest.approx(expected, abs=5e-6)


LINE = "bt70+fatigue=9+spread=.5+side=.4+lapse=.1+ring=1+types=.5+other=-1*walk+turn=20"


@pytest.mark.full
def test_every_vote_of_a_flawed_panel_can_be_cast_again(tmp_path):
    """From the record, the comparison, the side, the key, and votes given in earlier steps."""
    path = yard_run.make(
        tmp_path, f"panel.kind={LINE}", "panel.beta=6", "panel.size=5", "run.votes=48",
        "optimizer.M=2",
    )  # fmt: skip
    with Ledger.open(path) as ledger:
        assert verification.verify(ledger).ok
        recorded = ledger.spec["panel"]
        assert (recorded["panel"], recorded["other"]) == (LINE, "-1*walk")
        assert [rater.get("taste", 0.0) for rater in recorded["raters"]] == [0, 0, 1, 1, 1]
        cast = ledger.query(
            "SELECT v.choice, a.panelist, a.comparison, a.plus_side, p.pseudonym, c.step "
            "FROM votes v JOIN assignments a USING (assignment) JOIN panelists p USING (panelist) "
            "JOIN comparisons c USING (comparison) ORDER BY v.vote"
        )
        names = sorted({row["pseudonym"] for row in cast})
        judges = dict(zip(names, assemble.reopen(ledger).panel.judges, strict=True))
        asked = {c.id: c for step in {r["step"] for r in cast} for c in ledger.comparisons(step)}
        assert len(cast) == 48 and len(names) == 5
        fresh = 0
        for row in cast:
            who, judge = row["panelist"], judges[row["pseudonym"]]
            given = sum(r["panelist"] == who and r["step"] < row["step"] for r in cast)
            comparison = asked[row["comparison"]]
            key = panel_evaluator.judge_key(ledger.root_seed, comparison, who)
            how = {"panelist": who, "plus_side": row["plus_side"], "key": key}
            assert judge.after(given).judge(comparison, **how) == row["choice"]
            fresh += judge.judge(comparison, **how) == row["choice"]
        assert fresh < 48  # tiredness did change votes


@pytest.mark.full
def test_pairs_without_a_difference_are_a_coin_or_the_same():
    for line, expected in (("bt70", {"A", "B"}), ("bt70+equal=same", {"tie"})):
        judge = panel(line, size=1).judges[0]
        answered = {
            judge.judge(comparison(i, SEA, Answer("sea")), panelist="p", plus_side="A",
                        key=derive(0, "vote", step=i))
            for i in range(40)
        }  # fmt: skip
        assert answered == expected
