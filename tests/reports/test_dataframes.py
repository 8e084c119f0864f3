import pytest

import szpo
from szpo.errors import StorageError
from szpo.training import controller
from szpo.training.services import Bounds
from tests.support.quadratic import (
    QuadraticPolicy,
    history,
    new_ledger,
    panel_of,
    prompts_of,
    settings_of,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "run.db"
    settings = settings_of(M=2)
    with new_ledger(path, settings) as ledger:
        controller.run(
            ledger,
            QuadraticPolicy(settings),
            panel_of(ledger),
            prompts_of(settings),
            Bounds(until_step=3),
        )
    return path


def test_tables_hold_what_the_ledger_holds(path):
    with szpo.open(path) as run:
        assert len(run.votes) == 3 * 4 * 2
        assert run.votes["counted"].all()
        assert list(run.steps["state"]) == ["applied"] * 3
        assert list(run.steps["theta_sha256"]) == [h[2] for h in history(run.ledger)]
        assert run.steps["total_votes"].iloc[-1] == 24
        counts = run.comparisons[["plus", "minus", "tie"]].sum(axis=1)
        assert (counts == 2).all() and len(counts) == 12
        assert len(run.answers) == 12 * 2
        assert run.answers["prompt"].str.startswith("Question").all()
        assert run.updates["coef"].notna().all() and len(run.updates) == 3
        assert run.verify().ok
        assert run.theta(until=0)["z"].tolist() == [0, 0, 0, 0]


def test_an_empty_run_has_empty_tables_with_their_columns(tmp_path):
    new_ledger(tmp_path / "empty.db", settings_of()).close()
    with szpo.open(tmp_path / "empty.db") as run:
        for table, column in ((run.votes, "choice"), (run.steps, "mu"), (run.updates, "coef")):
            assert len(table) == 0 and column in table.columns
        assert len(run.comparisons) == 0 and len(run.answers) == 0


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(StorageError, match="no such ledger"):
        szpo.open(tmp_path / "none.db")
