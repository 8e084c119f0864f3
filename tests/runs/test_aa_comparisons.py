"""A/A comparisons: made once for people, from one policy, and without a trace in the run."""

import itertools

import pytest

from szpo.config import settings_file
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import assemble, driver
from szpo.voting.service import VoteService
from szpo_simulators.panels.panel import build
from tests.support import yard_run
from tests.support.quadratic import history


def config_of(folder, *sets):
    words = yard_run.arguments(folder, "run.name=yard", "run.steps=2", *sets)
    settings = [word for word in words if "=" in word]
    return settings_file.load(sets=[*settings, f"run.folder={folder / 'runs'}"])


def people_run(folder, lives=1):
    """A run for people in the yard, with a panel that answers from outside; the open ledger."""
    config = config_of(folder, "panel.kind=people", "panel.poor_samples=open")
    path = assemble.new_path(config)
    assemble.create(assemble.build(config, say=lambda _: None), path).close()
    judges = build("bt70", reward="walk", size=5, beta=5.0).judges
    for life in range(1, lives + 1):
        ledger = Ledger.open(path)
        parts = assemble.reopen(ledger, say=lambda _: None)
        panel = PanelEvaluator(VoteService(ledger), judges)

        def vote(ledger=ledger, panel=panel, last=life == lives):
            if not last:
                raise KeyboardInterrupt
            for row in ledger.steps():
                if row["state"] == "open":
                    panel.submit(ledger.comparisons(row["step"]))

        try:
            driver.drive(ledger, parts, wait=vote)
        except KeyboardInterrupt:
            ledger.close()
    return ledger


def aa(ledger):
    heads = ledger.query("SELECT comparison FROM comparisons WHERE kind = 'aa' ORDER BY n")
    return [ledger.comparison(head["comparison"]) for head in heads]


@pytest.mark.full
def test_a_peoples_run_begins_with_them_and_makes_them_once(tmp_path):
    with people_run(tmp_path / "a", lives=3) as ledger, people_run(tmp_path / "b") as other:
        found = aa(ledger)
        assert found == aa(other) and len(found) == driver.COMPARISONS
        assert all(len(c.rows) == 3 and c.step == -1 and not c.identical for c in found)
        trained = {p.turns for p in assemble.reopen(ledger, say=lambda _: None).prompts.train}
        rows = list(itertools.chain.from_iterable(c.rows for c in found))
        assert {row.prompt.turns for row in rows} <= trained
        # Two independent samples of one policy: alike in law, not in text.
        assert sum(row.identical for row in rows) < len(rows) / 2
        assert history(ledger) == history(other) and verification.verify(ledger).ok
        # People are served the step's comparisons only.
        (first,) = ledger.query("SELECT min(event) AS event FROM events WHERE kind = 'generated'")
        assert first["event"] is not None
        assert {vote["kind"] for vote in ledger.votes()} == {"train"}


@pytest.mark.full
def test_they_change_nothing_of_the_run(tmp_path, monkeypatch):
    with people_run(tmp_path / "with") as ledger:
        expected = history(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "make", lambda *_: False)
        with people_run(tmp_path / "without") as ledger:
            assert aa(ledger) == [] and history(ledger) == expected


@pytest.mark.full
def test_a_panel_inside_the_process_gets_none(tmp_path):
    with Ledger.open(yard_run.make(tmp_path)) as ledger:
        assert aa(ledger) == []


@pytest.mark.parametrize("count", [1, 7])
def test_they_are_stored_all_or_none(tmp_path, count):
    config = config_of(tmp_path, "panel.kind=people")
    parts = assemble.build(config, say=lambda _: None)
    with assemble.create(parts, assemble.new_path(config)) as ledger:
        source = assemble.source(ledger, parts)
        plain = ledger.append

        def broken(table, row):
            if table == "comparisons" and row["n"] == count - 1:
                raise KeyboardInterrupt
            return plain(table, row)

        ledger.append = broken
        with pytest.raises(KeyboardInterrupt):
            driver.make(ledger, source, count)
        ledger.append = plain
        assert aa(ledger) == []
        assert driver.make(ledger, source, count) and not driver.make(ledger, source, count)
        assert len(aa(ledger)) == count
