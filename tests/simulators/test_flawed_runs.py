"""Flawed panels through the ledger: each recorded vote follows from the record alone."""

import pytest

from szpo.cli.app import call
from szpo.evaluators import panel_evaluator
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo_simulators.panels.simulate import panel_of
from tests.support import yard_run

LINE = "bt70+fatigue=9+spread=.5+side=.4+lapse=.1+ring=1+types=.5+other=-1*walk+turn=20"


@pytest.mark.full
def test_every_vote_of_a_flawed_panel_can_be_cast_again(tmp_path):
    """From the spec, the comparison, the side, the key, and votes given in earlier steps."""
    path = yard_run.make(
        tmp_path, f"panel.kind={LINE}", "panel.beta=6", "panel.size=5", "run.votes=48",
        "optimizer.votes=2",
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
        judges = panel_of(ledger).judges
        names = sorted({row["pseudonym"] for row in cast})
        asked = {c.id: c for step in {r["step"] for r in cast} for c in ledger.comparisons(step)}
        assert len(cast) == 48 and len(names) == 5
        fresh = 0
        for row in cast:
            given = sum(
                other["panelist"] == row["panelist"] and other["step"] < row["step"]
                for other in cast
            )
            judge, comparison = judges[names.index(row["pseudonym"])], asked[row["comparison"]]
            how = {
                "panelist": row["panelist"], "plus_side": row["plus_side"],
                "key": panel_evaluator.judge_key(ledger.root_seed, comparison, row["panelist"]),
            }  # fmt: skip
            assert judge.after(given).judge(comparison, **how) == row["choice"]
            fresh += judge.judge(comparison, **how) == row["choice"]
        assert fresh < 48  # tiredness did change votes


def test_a_line_that_is_none_is_refused_before_anything_is_loaded(tmp_path, capsys):
    for line, words in (
        ("bt70+foo=1", "no flaw 'foo'"),
        ("bt70+hostile=5", "has too few members"),
        ("bt70+types=.5+other=nonsense", "no reward of that name"),
        ("people+side=1", 'no evaluator "people+side=1"'),
        ("judge+side=1", '"judge" takes no changes'),
    ):
        assert call(yard_run.arguments(tmp_path, f"panel.kind={line}")) == 2
        *_, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith("error: ") and words in last
