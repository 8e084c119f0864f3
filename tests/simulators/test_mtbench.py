"""Panels fitted to human votes: what is committed follows from its own constants, near people."""

import numpy as np
import pytest
from scipy.special import ndtri

from szpo.seeds import derive, uniform
from szpo_simulators.panels import mtbench, panel
from szpo_simulators.panels.flaws import members
from szpo_simulators.panels.mtbench import STATISTICS
from szpo_simulators.panels.raters import law, pick

COMMITTED = mtbench.load_committed()


def test_the_committed_table_follows_from_the_committed_constants():
    """Without the votes: quadrature of the model over the committed design gives the table."""
    assert mtbench.digest(COMMITTED) == COMMITTED["sha256"]
    training, preset = mtbench.constants("training"), mtbench.constants()
    columns = {
        "model on the held-out half": mtbench.expected_statistics(
            training, COMMITTED["design"]["held-out"]
        ),
        "model on all": mtbench.expected_statistics(training, COMMITTED["design"]["all"]),
        "preset on all": mtbench.expected_statistics(preset, COMMITTED["design"]["all"]),
    }
    assert [row["statistic"] for row in COMMITTED["table"]] == list(STATISTICS)
    for name, values in columns.items():
        committed = [row[name] for row in COMMITTED["table"]]
        assert values == pytest.approx(committed, abs=5.1e-5), name


def test_the_panel_itself_votes_with_these_statistics():
    """Members of the preset answer items of the committed design, drawn one by one."""
    theta = mtbench.constants().theta
    counts = []
    for pair, votes in COMMITTED["design"]["all"].items():
        first, second = pair.split("/")
        for count, items in votes.items():
            m, copies = int(count), 4 * items
            u = uniform(derive(0, "votes", name=pair, k=m), copies * (m + 2)).reshape(copies, -1)
            (rater,) = members("mtbench", 1.0, 1)
            effects = ndtri(u[:, None, :2] + 2.0**-54)
            gap = np.full((copies, 1), theta[first] - theta[second])
            answers = pick(law(rater, gap, True, effects), u[:, 2:])
            counts.append(np.stack([(answers == c).sum(1) for c in range(3)], axis=-1))
    found = mtbench.ratios(mtbench.sums(np.concatenate(counts)).sum(0))
    people = [row["all votes"] for row in COMMITTED["table"]]
    # 7,256 items, mostly of one or two votes: a standard error of up to .011 for unanimity.
    assert found == pytest.approx(people, abs=0.03)


@pytest.mark.full
def test_beta_of_close_gives_the_better_batch_its_fifty_five_percent():
    """Agreement and ties then come out by themselves, near those of close chatbots."""
    u = ndtri(uniform(derive(5, "normal"), 200 * 40).reshape(200, 40))
    rater = members("close", 1.0, 1)[0]
    target = COMMITTED["close"]["favourite"]
    fitted = panel.calibrate(u, 8, 0, target, measure="wins", rater=rater)
    assert fitted.reached == pytest.approx(0.55, abs=0.004)
    gaps = fitted.beta * panel.batch_gaps(u, 8, derive(9, "questions"), 200)
    shares, weight = mtbench.shares(rater, gaps), mtbench.nodes()[1]
    agreement, _, tie, _ = (row["votes"] for row in COMMITTED["close"]["table"])
    assert float((weight @ (shares**2).sum(-1)).mean()) == pytest.approx(agreement, abs=0.03)
    assert float((weight @ shares[..., 2]).mean()) == pytest.approx(tie, abs=0.03)
