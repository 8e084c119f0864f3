"""The README's commands exist and its first ones work; files it names are there."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from szpo import plugins
from szpo.cli import commands
from szpo.cli.app import call
from tests.support import yard_run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("commands", "own-run", "tutorial")
}
"""Pages whose blocks of commands are held to what exists, as the README's are."""
OTHER_LANGUAGE = re.compile(r"^```\w+\n.*?^```\n", re.MULTILINE | re.DOTALL)
BLOCKS = [
    block
    for page in (README, *GUIDES.values())
    for block in re.findall(
        r"^```\n(.*?)^```", OTHER_LANGUAGE.sub("", page), re.MULTILINE | re.DOTALL
    )
]
LINES = list(
    dict.fromkeys(line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines())
)
COMMANDS = set(commands.COMMANDS)


def test_every_command_is_on_the_page_of_commands() -> None:
    for name in COMMANDS:
        assert re.search(rf"^szpo {name}\b", GUIDES["commands"], re.MULTILINE), name


@pytest.mark.parametrize("line", [line for line in LINES if "szpo" in line.split(" ")[0]])
def test_command_lines_name_commands_and_options_that_exist(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, *rest = shlex.split(line)
    assert command in COMMANDS
    assert call([command, "--help"]) == 0
    message = capsys.readouterr().out
    for word in rest:
        if word.startswith("-"):
            assert re.search(rf"(^|[\s,]){re.escape(word)}\b", message), f"{command} has no {word}"


def test_first_screen_holds_the_picture_and_two_commands() -> None:
    screen = README.splitlines()[:24]
    assert any(line.startswith("![") for line in screen)
    commands = screen[screen.index("```") + 1 :]
    assert [line.split("  ")[0] for line in commands[: commands.index("```")]] == [
        "make demo",
        "make test",
    ]


def test_it_is_two_screens_at_most() -> None:
    assert len(README.splitlines()) <= 110


def test_files_and_names_it_mentions_exist() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)|`((?:docs|examples|experiments)/[\w./-]+)`", README):
        assert (ROOT / (path[0] or path[1])).exists(), path
    for name in re.findall(r"`(szpo\.[\w.]+)`", README + GUIDES["own-run"]):
        module, _, attribute = name.rpartition(".")
        known = plugins.names(name) or hasattr(import_module(module), attribute)
        assert known or name in {"szpo.rewards"}, name


def test_picture_is_what_its_command_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    drawn = import_module("draw_step").draw()
    assert (ROOT / "docs" / "step.svg").read_text(encoding="utf-8") == drawn


def test_presets_it_lists_are_those_that_ship() -> None:
    from szpo.config import settings_file

    (listed,) = re.findall(r"^Presets: (.*?)\. Any", GUIDES["own-run"], re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`(\w+)`", listed)) == set(settings_file.presets())


def test_own_run_goes_through_from_the_written_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block of docs/own-run.md, on the small world."""
    monkeypatch.chdir(tmp_path)
    sets = [*yard_run.SETS, f"prompts.path={yard_run.prompts(tmp_path)}", "run.votes=16"]
    assert call(["init", "run.toml", *(w for s in sets for w in ("--set", s))]) == 0
    assert call(["run", "run.toml", "--plan"]) == 0
    assert call(["run", "run.toml"]) == 0
    assert call(["verify"]) == 0
    assert call(["report"]) == 0
    assert list((tmp_path / "runs").glob("*.html"))


def test_changelog_keeps_its_headings() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        "Breaking", "Added", "Fixed", "Docs",
    }  # fmt: skip


def test_contributing_fits_one_screen() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) <= 45
