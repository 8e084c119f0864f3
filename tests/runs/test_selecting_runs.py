"""Runs that select their comparisons or stop asking: recorded, resumed, verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.optim import comparison_selection, parameters
from szpo.optim.settings import Selection
from szpo.replay import verification
from szpo.types import Batch
from szpo.voting import counting
from tests.support.quadratic import Clock, QuadraticPolicy, go, history, start


class Terse(QuadraticPolicy):
    """Many of its rows are the same on both sides, and some comparisons wholly."""

    def rollout(self, *arguments: Any, **keywords: Any) -> list[Batch]:
        batches = super().rollout(*arguments, **keywords)
        first = batches[0]
        same = [i % 5 in (0, 1, 2) for i in range(len(first))]
        rest = (
            tuple(a if s else b for a, b, s in zip(first, batch, same, strict=True))
            for batch in batches[1:]
        )
        return [first, *rest]


def begin(tmp_path: Path, name: str = "run.db", **changes: Any) -> tuple[Any, Ledger, Terse]:
    settings, ledger, _ = start(tmp_path, name, **changes)
    return settings, ledger, Terse(settings)


CHOSEN = {"selection": Selection(12), "N": 4, "D": 2}


@pytest.mark.parametrize("rule", ["known", "sign"])
def test_a_selecting_run_verifies_and_repeats(tmp_path: Path, rule: str) -> None:
    found = []
    for name in ("a.db", "b.db"):
        settings, ledger, policy = begin(tmp_path, name, rule=rule, alpha=0.3, **CHOSEN)
        go(settings, ledger, policy)
        found.append(history(ledger))
        report = verification.verify(ledger)
        assert report.ok, report.failure
        for step in range(4):
            events = [e["body"] for e in ledger.events("generated") if e["body"]["step"] == step]
            (notes,) = events[0]["selection"]
            assert len(notes["q"]) == 12 and len(notes["index"]) == 4
            asked = [c for c in ledger.comparisons(step) if not c.identical]
            assert len(counting.counted(ledger, step)) == len(asked) == 4
        ledger.close()
    assert found[0] == found[1]


def test_a_run_recorded_before_ties_widened_the_error_still_verifies(tmp_path: Path) -> None:
    """Its spec has no `selection_noise`; a run that begins now has, and both verify."""
    tied = {"rule": "known", "alpha": 0.3, "warmup": 0, "M": 3, "ties": "davidson", "tie_nu": 1.5}
    errors = []
    for name, changes in (("new.db", {}), ("old.db", {"selection_noise": None})):
        settings, ledger, policy = begin(tmp_path, name, **tied, **changes, **{**CHOSEN, "N": 1})
        assert ("selection_noise" in ledger.spec["optimizer"]) is (name == "new.db")
        go(settings, ledger, policy)
        report = verification.verify(ledger)
        assert report.ok, report.failure
        errors.append([row["stderr"] for row in ledger.update_rows()])
        ledger.close()
    # One comparison has no spread, so the vote noise stands alone, √1.75 times what it was.
    assert errors[0] == pytest.approx([1.75**0.5 * error for error in errors[1]])


def test_the_update_is_the_weighted_sum(tmp_path: Path) -> None:
    """θ moves by α · Σ Δ̂_n/(C·q_n) / 2μ · v; votes of M = 1 say ± log 3."""
    settings, ledger, policy = begin(tmp_path, rule="known", alpha=0.1, warmup=0, **CHOSEN)
    go(settings, ledger, policy, until_step=1)
    (event,) = ledger.events("generated")
    (notes,) = event["body"]["selection"]
    total = 0.0
    for vote in counting.counted(ledger, 0):
        q = notes["q"][int(notes["index"][vote.n])]
        total += (1 if vote.verdict == "plus" else -1) * np.log(3) / (12 * q)
    query = settings_query(ledger, settings)
    (update,) = ledger.updates()
    factor = parameters.factor(settings.space, 0, 0)
    assert update.coef == pytest.approx(0.1 * total / (2 * query) * factor, rel=1e-3)
    assert len(set(notes["q"])) > 1  # else nothing was chosen by content


def settings_query(ledger: Ledger, settings: Any) -> float:
    row = ledger.step(0)
    assert row is not None
    return float(row["mu"])


def test_a_selecting_run_in_pieces_is_the_run_in_one(tmp_path: Path) -> None:
    settings, ledger, policy = begin(tmp_path, "whole.db", rule="known", alpha=0.3, **CHOSEN)
    go(settings, ledger, policy)
    whole = history(ledger)
    ledger.close()
    settings, ledger, policy = begin(tmp_path, "pieces.db", rule="known", alpha=0.3, **CHOSEN)
    go(settings, ledger, policy, until_step=2)
    ledger.close()
    with Ledger.open(tmp_path / "pieces.db", clock=Clock()) as ledger:
        go(settings, ledger, Terse(settings))
        assert history(ledger) == whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda n: [{**n[0], "q": [v * 0.9 for v in n[0]["q"]]}], "cannot give"),
        (lambda n: [{**n[0], "index": [0.0, 1.0, 2.0, 3.0]}], "shows others"),
        (lambda n: [], "is missing"),
    ],
)
def test_a_record_of_other_probabilities_is_refused(
    tmp_path: Path, changed: Any, message: str
) -> None:
    settings, ledger, policy = begin(tmp_path, rule="known", alpha=0.3, **CHOSEN)
    go(settings, ledger, policy, until_step=1)
    (event,) = ledger.events("generated")
    notes = json.loads(json.dumps(event["body"]["selection"]))
    assert comparison_selection.recorded_shares(settings, 0, notes).shape == (1, 4)
    with pytest.raises(IntegrityError, match=message):
        comparison_selection.recorded_shares(settings, 0, changed(notes))
    ledger.close()


def test_without_a_selection_a_run_is_what_it_was(tmp_path: Path) -> None:
    """C = N with equal probabilities asks the same and gives the same votes as no selection."""
    plain_settings, plain, policy = begin(tmp_path, "plain.db", rule="known", alpha=0.3, N=4, D=2)
    go(plain_settings, plain, policy, until_step=1)
    assert counting.tally(plain, 0, 1, 4).share is None
    settings, ledger, policy = begin(
        tmp_path, "all.db", rule="known", alpha=0.3, N=4, D=2,
        selection=Selection(4, "uniform", 1.0),
    )  # fmt: skip
    go(settings, ledger, policy, until_step=1)
    assert history(ledger)[0][1] == history(plain)[0][1]
    own, other = ledger.updates()[0].coef, plain.updates()[0].coef
    assert own == pytest.approx(other, rel=1e-3)
    for each in (plain, ledger):
        each.close()


# ---- stopping ----


@pytest.mark.full
def test_a_price_ends_steps_and_verifies(tmp_path: Path) -> None:
    cast = {}
    for name, price in (("free.db", None), ("dear.db", 10.0)):
        settings, ledger, policy = start(
            tmp_path, name, rule="regression", K=6, N=1, vote_price=price
        )
        go(settings, ledger, policy)
        cast[name] = [len(counting.counted(ledger, step)) for step in range(4)]
        closes = list(ledger.events("close"))
        assert len(closes) == sum(n < 6 for n in cast[name])
        assert all("its price is" in close["body"]["reason"] for close in closes)
        report = verification.verify(ledger)
        assert report.ok, report.failure
        ledger.close()
    assert cast["free.db"] == [6] * 4
    assert cast["dear.db"] == [1] * 4  # one at least, else a run might never end


def test_a_priced_run_in_pieces_is_the_run_in_one(tmp_path: Path) -> None:
    found = []
    for name, stops in (("whole.db", (4,)), ("pieces.db", (1, 3, 4))):
        settings, ledger, _ = start(tmp_path, name, rule="regression", K=6, N=1, vote_price=0.001)
        for until in stops:
            go(settings, ledger, QuadraticPolicy(settings), until_step=until)
        found.append(history(ledger))
        ledger.close()
    assert found[0] == found[1]


# ---- settings of a run ----


def test_the_config_table_reaches_the_settings() -> None:
    table = {"candidates": 24, "by": "words", "floor": 0.5}
    config = Config.model_validate({"selection": table})
    found = config.optimizer_settings((("z", (4,)),), 1.0)
    assert found.selection == Selection(24, "words", 0.5)
    plain = Config().optimizer_settings((("z", (4,)),), 1.0)
    assert plain.selection is None and plain.vote_price is None
    with pytest.raises(UsageError, match=r"4 candidates for optimizer\.comparisons = 8"):
        settings_file.check({"selection": {"candidates": 4}})
