"""The demo's screen, on a tiny random model: its lines, and how a failing guard is shown."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from szpo.analysis import html_report, taught_taste
from szpo.analysis.model_card import model_card
from szpo.cli.app import call
from szpo.config.schema import Config
from szpo.ledger.database import Ledger
from szpo.ledger.theta import theta_digests
from szpo.policies import text_guards
from szpo.types import Answer, Detail, Prompt
from szpo_simulators import demo
from szpo_simulators.panels import text_rewards
from tests.support import folder_run
from tests.support.quadratic import new_ledger, settings_of


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    words = folder_run.arguments(folder, "evaluation.prompts=4", "evaluation.samples=2",
                                 "optimizer.K=4", "optimizer.N=1",
                                 "optimizer.D=8", "generation.whole_sentences=false",
                                 model_folder=folder_run.model(folder))  # fmt: skip
    sets = [text for text in words[words.index("--set") + 1 :: 2] if "panel.reward" not in text]
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        call(
            ["demo", "--taste", "length:6", "--folder", str(folder / "runs"), "--json",
             *(word for text in sets for word in ("--set", text))]
        )  # fmt: skip
    return json.loads(told.getvalue()), folder / "runs" / "demo-0.db"


@pytest.mark.full
def test_it_spends_the_votes_and_keeps_the_run(demo_run):
    found, path = demo_run
    assert found["votes"] == 8
    with Ledger.open(path, readonly=True) as ledger:
        assert len(theta_digests(ledger)) == 3
    assert call(["verify", str(path)]) == 0


@pytest.mark.full
def test_the_report_shows_the_held_out_table(demo_run):
    found, path = demo_run
    with Ledger.open(path, readonly=True) as ledger:
        page = html_report.render(ledger)
    assert "Held-out prompts, before and after" in page
    assert f"{found['before']:.3f}" in page and f"{found['gain']:+.3f}, 95 %" in page
    assert "own prompt over the best of 3 others" in page
    assert all(guard["name"] in page for guard in found["guards"])
    lost = [{**guard, "ok": False} for guard in found["guards"]]
    told = demo.describe({**found, "guards": lost}, path)
    why = next(i for i, line in enumerate(told) if line.startswith("szpo export refuses"))
    assert why < told.index("next:") and told[-1].startswith("  szpo init")


@pytest.mark.full
def test_show_and_model_card_have_the_guards(demo_run, capsys):
    found, path = demo_run
    assert call(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["guards"] == found["guards"]
    assert call(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    with Ledger.open(path, readonly=True) as ledger:
        card = model_card(ledger)
    assert "nothing but the above was measured here" in card
    for guard in found["guards"]:
        assert f"{guard['name']}: {guard['value']:.2f} ({guard['limit']})" in shown
        assert f"| {guard['name']} | {guard['value']:.2f} | {guard['limit']} |" in card


def test_last_pairs_are_answers_already_drawn_of_other_random_numbers_on_either_side():
    prompts = [Prompt.user(f"{i}?") for i in range(3)]
    tuned, base = ([[Answer(f"{i} {j}") for j in range(n)] for i in range(3)] for n in (4, 8))
    pairs = demo._pair(prompts, tuned, base)
    assert len(pairs) == 12 and [pair.prompt for pair in pairs[:3]] == prompts
    for pair in pairs:
        (p, j), (same, i) = (map(int, each.text.split()) for each in (pair.plus, pair.minus))
        assert f"{p}?" == pair.prompt.text and p == same
        assert 4 * p + j != 8 * p + i  # places in the stream of one seed


def test_a_lost_topic_alone_does_not_fail_the_demo():
    for lost, code in ((None, 0), (0, 1), (1, 1), (2, 1), (3, 0)):
        guards = [{"name": name, "ok": i != lost} for i, name in enumerate(text_guards.NAMES)]
        assert demo.find_exit_code(guards) == code


def test_the_last_lines_never_deny_each_other():
    entry, path = f"{text_rewards.IS_ENTRY}: more positive in tone", Path("demo-0.db")
    unexplained = f"40 votes: {taught_taste.UNEXPLAINED} (95 %)"
    told = demo._describe_taste(entry, unexplained, path)
    assert told[0] == entry and told[1].startswith("not found yet") and str(path) in told[1]
    for vague in ("no taste shown; the votes are too few", "not clear yet: fewer commas (30 %)"):
        told = demo._describe_taste(entry, f"40 votes: {vague}", path)
        assert told[0] == entry and told[1].startswith(f"not found yet: 40 votes: {vague}; more")
        assert told[1].endswith(f"szpo run --resume {path} --votes +40")
    for nearest, lesson in ((entry, "40 votes: fewer commas"), ("no entry", unexplained)):
        assert demo._describe_taste(nearest, lesson, path) == (nearest, lesson)


def test_a_stopped_demo_names_its_way_on_and_the_next_one_does_too(tmp_path, monkeypatch, capsys):
    begun: list[Path] = []

    def stop(config: Config, path: Path, **_: bool) -> None:
        begun.append(path)
        if path.stem == "demo-0":
            spec = {"config": config.model_dump(mode="json")}
            new_ledger(path, settings_of(D=1), spec=spec).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_demo", stop)
    words = ["demo", "--folder", str(tmp_path)]
    first = tmp_path / "demo-0.db"
    on = f"szpo run --resume {first}"
    lost = "stopped by an interrupt; nothing counted is lost. Continue with: "
    assert call(words) == 130
    assert capsys.readouterr().err.endswith(f"{lost}{on}\n")
    assert call(words) == 130
    told = capsys.readouterr().err
    assert f"this one is demo-0-2. Which were stopped: szpo show --all --folder {tmp_path}" in told
    assert told.endswith(f"{lost}szpo {' '.join(words)}\n")  # demo-0-2 had not begun
    assert [path.stem for path in begun] == ["demo-0", "demo-0-2"]


def test_a_second_demo_takes_another_file_and_one_for_people_is_refused(tmp_path, capsys):
    (tmp_path / "demo-0.db").touch()
    assert demo.find_free_path(tmp_path, "demo-0") == tmp_path / "demo-0-2.db"
    assert call(["demo", "--preset", "people", "--folder", str(tmp_path)]) == 2
    assert "panel.kind is people; a demo needs bt70" in capsys.readouterr().err


def test_what_is_for_who_knows_the_method_is_said_with_v_only(tmp_path, monkeypatch, capsys):
    def measure(*_: Any, say: Callable[[str], None], **__: Any) -> dict[str, Any]:
        say(Detail("rule regression, antithetic pairs"))
        say("panel bt70: 5 simulated panelists")
        return {}

    monkeypatch.setattr(demo, "measure_run", measure)
    for verbose in (False, True):
        demo.run_demo(Config(), tmp_path / "run.db", quiet=False, verbose=verbose)
        told = capsys.readouterr().err
        assert ("rule regression" in told) is verbose and "panel bt70" in told
        assert "szpo is not told why" in told
