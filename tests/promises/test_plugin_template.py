"""The template package of examples/plugin, installed as pip would, is found and runs."""

import json
import re
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer import main as typer_main

from szpo import plugins
from szpo.analysis import features
from szpo.cli.app import call
from szpo.config.optimizer import find_rule
from szpo.errors import SzpoError, UsageError
from szpo.ledger.database import Ledger
from szpo.optim import optimizer
from szpo.optim.known_and_sign import KNOWN
from szpo.testing import check_judge
from szpo.types import Answer, Prompt
from tests.support import folder_run, yard_run
from tests.support.plugged import plug

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "plugin"
PAGE = (ROOT / "docs" / "reference" / "plugins.md").read_text(encoding="utf-8")
PACKAGE = "szpo_plugin_template"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the package in it, out of the wheel that its own pyproject makes."""
    from hatchling.build import build_wheel

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TEMPLATE)
        wheel = folder / build_wheel(str(folder))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "packages")
    return folder / "packages"


@pytest.fixture
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    yield
    optimizer._RULES.pop("cautious", None)
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def test_every_kind_is_found_by_its_name(installed):
    for group, name in (
        ("szpo.rules", "cautious"), ("szpo.rewards", "ends"), ("szpo.evaluators", "brief"),
        ("szpo.engines", "counted"), ("szpo.trackers", "lines"),
    ):  # fmt: skip
        assert name in plugins.names(group)
        assert plugins.origin(group, name) == {"package": "szpo-plugin-template",
                                               "version": "0.1.0"}  # fmt: skip
    check_judge(import_module(f"{PACKAGE}.evaluator").Brief())


@pytest.mark.full
def test_rule_and_reward_run_and_replay_while_they_are_installed(
    installed, site, tmp_path, capsys
):
    path = yard_run.make(tmp_path, "optimizer.rule=cautious", "panel.reward=ends:.",
                         "panel.beta=1.0")  # fmt: skip
    assert call(["verify", str(path)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        assert ledger.spec["optimizer"]["rule"] == "cautious"
        package = {"package": "szpo-plugin-template", "version": "0.1.0"}
        assert ledger.spec["plugins"] == {"rule": package}
    capsys.readouterr()
    # As on a machine without the package.
    optimizer._RULES.pop("cautious")
    sys.path.remove(str(site))
    assert call(["verify", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: yard.db: its rule "cautious" comes from '
                           "szpo-plugin-template 0.1.0, which is not installed;")  # fmt: skip


@pytest.mark.full
def test_engine_evaluator_and_tracker_answer_and_listen(installed, tmp_path):
    path = folder_run.make(tmp_path, "engine.kind=counted", "panel.kind=brief", "run.votes=4",
                           "run.tracker=lines")  # fmt: skip
    assert call(["verify", str(path)]) == 0
    with Ledger.open(path, readonly=True) as ledger:
        assert json.loads(json.dumps(ledger.spec["panel"])) == {"panel": "brief"}
        assert ledger.spec["config"]["engine"]["kind"] == "counted"
        assert set(ledger.spec["plugins"]) == {"engine"}
        steps = ledger.query("SELECT COUNT(*) AS n FROM steps WHERE state = 'applied'")[0]["n"]
    (file,) = tmp_path.rglob(f"tracking/{path.stem}.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(steps)) and steps
    assert lines[-1]["votes/total"] == 4


def test_what_is_no_rule_is_refused(monkeypatch):
    for found in ("no rule", KNOWN):
        plug(monkeypatch, rules=("odd", found))
        with pytest.raises(SzpoError, match=r'"odd" is no szpo.optim.rule.Rule'):
            find_rule("odd")
    other = type(KNOWN)(**{name: getattr(KNOWN, name) for name in KNOWN.__slots__})
    with pytest.raises(UsageError, match="'known' is there already"):
        optimizer.add_rule(other)


def section(group: str) -> dict[str, Any]:
    """The names that the code of a group's section defines."""
    (text,) = re.findall(rf"^## \w+: `{group}`$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(code, group, "exec"), names)
    return names


@pytest.mark.full
def test_feature_command_and_benchmark_of_the_page_work(tmp_path, monkeypatch, capsys):
    path = yard_run.finished(tmp_path)
    count = section("szpo.commands")["command"]
    plug(
        monkeypatch,
        features=("starts", section("szpo.features")["starts"]),
        commands=("count", count),
        benches=("mine", section("szpo.benches")["main"]),
    )
    (feature,) = features.parse("starts:so")
    prompt, *answers = Prompt.user("Well?"), Answer("so it is"), Answer("it is so")
    assert [feature.score(prompt, answer) for answer in answers] == [1.0, 0.0]
    capsys.readouterr()
    assert call(["bench", "mine", "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"seeds": 2.0}
    assert typer_main.get_command(count).main([str(path)], standalone_mode=False) in (0, None)
    counted = [int(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert sum(counted) == 24
