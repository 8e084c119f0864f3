"""docs/peers.md: what it names exists, and its counts are those of its tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from szpo.cli import commands
from szpo.cli.app import call
from szpo.config import settings_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "peers.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
LINES = {
    heading: re.findall(r"^\| (\d+) \| [^|]+ \| (yes|partly|no)\b", text, re.MULTILINE)
    for heading, text in re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
ASKED = "What users of others ask for"


@pytest.mark.parametrize("named", NAMED)
def test_what_is_written_as_code_exists(named: str, capsys: pytest.CaptureFixture[str]) -> None:
    if named.startswith("szpo "):
        _, command, *rest = shlex.split(named)
        assert command in commands.COMMANDS
        assert call([command, "--help"]) == 0
        message = capsys.readouterr().out
        for word in (word for word in rest if word.startswith("-")):
            assert re.search(rf"(^|[\s,]){re.escape(word)}\b", message), word
        if command == "baseline":
            assert re.search(rf"\b{rest[0]}\b", message)
    elif named.startswith("make "):
        target = named.removeprefix("make ")
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif "=" in named:
        settings_file.load(sets=[named])
    else:
        section, name = named.split(".")
        assert hasattr(getattr(settings_file.load(), section), name)


def test_a_name_that_does_not_exist_would_fail(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("szpo show --nothing", "make nothing", "optimizer.rule=best", "panel.nothing"):
        with pytest.raises(Exception, match=r".*"):
            test_what_is_written_as_code_exists(wrong, capsys)


def test_every_feature_and_every_wish_has_one_answer() -> None:
    features = [line for heading, found in LINES.items() if heading != ASKED for line in found]
    assert sorted(int(number) for number, _ in features) == list(range(1, 43))
    assert [int(number) for number, _ in LINES[ASKED]] == list(range(1, 16))
    counts = [
        sum(answer == word for _, answer in lines)
        for lines in (features, LINES[ASKED])
        for word in ("yes", "partly", "no")
    ]
    text = " ".join(PAGE.split())
    found = re.search(
        r"Of the 42 features, szpo has (\d+), (\d+) in part, and (\d+) not\. Of the 15 wishes it "
        r"meets (\d+), (\d+) in part, and (\d+) not\.", text,
    )  # fmt: skip
    assert found and [int(each) for each in found.groups()] == counts
