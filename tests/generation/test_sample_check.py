"""Sample answers before people are asked: drawn once, refused or not, opened on request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from szpo.cli.app import call
from szpo.config.run_sections import Panel
from szpo.errors import UsageError
from szpo.generation import sample_check
from szpo.generation.sample_check import AnswerSource
from szpo.ledger.database import Ledger
from szpo.replay import verification
from szpo.runs import driver
from szpo.voting import lease, pauses
from szpo_ui.operator import controls, page
from szpo_ui.operator.controls import Command
from szpo_ui.web.site import of_ledger
from tests.support import folder_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights: nearly all that it writes is cut off."""
    return folder_run.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch):
    """Where the run would wait for people, it is paused."""

    def pause() -> None:
        with Ledger.open(_at[0]) as ledger:
            pauses.pause(ledger, "the test")

    _at: list[Path] = []

    def set_up(config: Any) -> Any:
        _at[:] = [Path(config.run.folder) / f"{config.run.name}.db"]
        return pause

    monkeypatch.setattr(driver, "make_waiter", set_up)


def begin(folder: Path, model: Path, *sets: str, flags: Sequence[str] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    line = folder_run.arguments(
        folder, "panel.kind=people", "panel.calibration=false", *sets, model_folder=model
    )
    assert call([*line, *flags]) == 1  # paused, by whomever
    return folder / "runs" / "folder.db"


def opened(ledger: Ledger) -> bool:
    return bool(ledger.query("SELECT 1 FROM steps WHERE opened_us IS NOT NULL"))


def paused_by(ledger: Ledger) -> str | None:
    found: str | None = lease.controller(ledger)["paused_by"]
    return found


@pytest.mark.full
def test_bad_samples_close_a_run_until_somebody_opens_it(tmp_path, model, capsys):
    path = begin(tmp_path, model)
    printed = capsys.readouterr()
    assert printed.err.count("\nsample") == 3, "the others would push the operator's link away"
    assert "20 sample answers: cut off" in printed.err
    assert "people could not judge these answers:" in printed.err
    assert "--accept-samples" in printed.err
    with Ledger.open(path) as ledger:
        found = sample_check.read(ledger)
        assert found is not None and len(found.samples) == sample_check.SAMPLES
        assert found.shares.cut.hits > 10 and found.shares.off_topic is not None
        assert {each.margin is None for each in found.samples} == {False}
        assert "cut off, bound 50%" in found.refusal
        assert paused_by(ledger) == sample_check.BY and not opened(ledger)

    # Going on is not enough: nothing is drawn again, and the round stays closed.
    assert call(["run", "--resume", str(path)]) == 1
    assert "sample (" not in capsys.readouterr().err
    with Ledger.open(path) as ledger:
        assert len(list(ledger.events(sample_check.KIND))) == 1
        assert paused_by(ledger) == sample_check.BY and not opened(ledger)

        # Nor is an operator's start, unless the box is ticked.
        site = of_ledger(ledger)
        shown = page.page(site)
        assert "The first round stays closed" in shown and shown.count('op-sample"') == 20
        with pytest.raises(UsageError, match=r"people could not judge .* tick the box"):
            controls.act(site, "Olga", Command(do="start"))
        assert paused_by(ledger) == sample_check.BY
        controls.act(site, "Olga", Command(do="start", anyway=True))
        assert paused_by(ledger) is None
        accepted = sample_check.read(ledger)
        assert accepted is not None and (accepted.accepted, accepted.refusal) == ("Olga", "")
        assert "Opened all the same by Olga" in page.page(site)

    assert call(["run", "--resume", str(path)]) == 1
    with Ledger.open(path) as ledger:
        assert opened(ledger) and paused_by(ledger) == "the test"
        assert verification.verify(ledger).ok
        # While the run goes on, the same shares come from what people read.
        recent = sample_check.recent(ledger)
        # Two sides, two rows, four comparisons, and the round ahead is written too.
        assert recent is not None and recent.cut.of == 2 * 2 * 4 * 2
        assert "Answers of the last rounds" in page.page(of_ledger(ledger))


def samples_and_answers(path: Path) -> tuple[Any, list[Any], list[str]]:
    with Ledger.open(path, readonly=True) as ledger:
        found = sample_check.read(ledger)
        assert opened(ledger)
        answers = ledger.query("SELECT i, plus, minus FROM answers ORDER BY 2, 3")
        accepted = [event["actor"] for event in ledger.events(sample_check.ACCEPTED)]
        return None if found is None else found.samples, answers, accepted


@pytest.mark.full
def test_a_setting_or_a_flag_opens_it_and_the_check_moves_no_other_draw(
    tmp_path, model, capsys, monkeypatch
):
    by_setting = begin(tmp_path / "a", model, flags=["--accept-samples"])  # which sets it
    assert "warning: people could not judge" in capsys.readouterr().err
    by_flag = begin(tmp_path / "b", model)
    assert call(["run", "--resume", str(by_flag), "--accept-samples"]) == 1
    monkeypatch.setattr(sample_check, "before", lambda *_: None)
    unchecked = begin(tmp_path / "c", model)
    first, second, third = map(samples_and_answers, (by_setting, by_flag, unchecked))
    assert first[0] == second[0] and len(first[0]) == sample_check.SAMPLES and third[0] is None
    assert first[1] == second[1] == third[1]
    assert (first[2], second[2], third[2]) == (
        ["panel.poor_samples"], ["szpo run --accept-samples"], [],
    )  # fmt: skip


@pytest.mark.full
def test_answers_that_end_open_by_themselves(tmp_path, model, capsys):
    few = tmp_path / "few.txt"  # two to train on, of which no topic can be told
    few.write_text("w20 w21\nw22 w23\nw24 w25\n", encoding="utf-8")
    path = begin(tmp_path, model, "generation.stop=[' w1']", f"prompts.path={few}")
    assert "people could not judge" not in capsys.readouterr().err
    samples, _, accepted = samples_and_answers(path)
    assert len(samples) == sample_check.SAMPLES and accepted == []


def test_nobody_looks_at_the_answers_of_a_simulated_panels_run():
    ledger: Any = None  # nor at the ledger
    source = AnswerSource((), lambda *_: pytest.fail("it drew"), lambda *_: pytest.fail("it read"))
    sample_check.before(ledger, Panel(kind="bt70"), source, pytest.fail)
