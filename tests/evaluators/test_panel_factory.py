"""What a package may register at `szpo.evaluators`, and the line it gets if it lacks something."""

from types import SimpleNamespace

import pytest

from szpo import plugins
from szpo.config import settings_file
from szpo.errors import UsageError
from szpo.evaluators.panel_evaluator import PanelEvaluator
from szpo.evaluators.panel_factory import (
    PanelFactory,
    StartingPolicy,
    as_factory,
    load_factory,
)
from szpo.judges.judge_panel import judge
from szpo_simulators.panels.panel import Maker


class Always:
    def judge(self, comparison, *, panelist, plus_side, key):
        return "A"


def brief(*, size=5, **settings):
    return SimpleNamespace(judges=(Always(),) * size, spec={"given": sorted(settings)})


@pytest.fixture
def register(monkeypatch):
    """Registers one object under the name "brief"."""

    def register(found):
        entry = SimpleNamespace(name="brief", load=lambda: found, value="brief")
        monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])

    return register


def config_of(*sets):
    return settings_file.load(sets=["panel.kind=brief", *sets])


def test_every_panel_of_szpo_is_a_factory():
    assert isinstance(judge, PanelFactory) and isinstance(Maker("bt70"), PanelFactory)
    assert load_factory("people") is None
    with pytest.raises(UsageError, match=r'"judge" takes no changes; name it without "\+side=.3"'):
        judge.with_changes("side=.3")


def test_a_function_is_called_with_the_settings_and_its_judges_are_asked(register):
    register(brief)
    factory = load_factory("brief")
    assert factory.check(config_of(), ()) is None
    start = StartingPolicy(answers=lambda: ((), ()))
    new = factory.build(config_of("panel.size=3"), start)
    given = ["beta", "logprob", "reward", "rows", "seed"]
    assert new.spec == {"given": ["answers", *given]} and len(new.judges) == 3
    assert isinstance(new.evaluator(None), PanelEvaluator)
    assert factory.build(config_of(), StartingPolicy(), {}).spec == {"given": given}
    with pytest.raises(UsageError, match=r'"brief" takes no changes; name it without "\+side=.3"'):
        load_factory("brief+side=.3")


def test_beta_is_the_one_on_record(register):
    register(lambda *, beta, **rest: SimpleNamespace(judges=(Always(),), spec={"beta": beta}))
    config, factory = config_of("panel.beta=2.5"), load_factory("brief")
    assert factory.build(config, StartingPolicy()).spec == {"beta": 2.5}
    for recorded, beta in [({}, 2.5), ({"calibration": {"beta": 7.0}}, 7.0)]:
        assert factory.build(config, StartingPolicy(), recorded).spec == {"beta": beta}


def test_a_panel_with_an_evaluator_of_its_own_is_left_as_it_is():
    own = SimpleNamespace(spec={}, evaluator=lambda service: "mine")
    factory = as_factory("own", lambda **settings: own)
    assert factory.build(config_of(), StartingPolicy()) is own


def test_what_a_panel_or_a_factory_lacks_is_named(register):
    register(lambda **settings: SimpleNamespace(spec={}))
    with pytest.raises(UsageError, match='panel "brief" gave SimpleNamespace without judges'):
        load_factory("brief").build(config_of(), StartingPolicy())
    register(SimpleNamespace(build=brief))
    with pytest.raises(UsageError, match="SimpleNamespace without check, with_changes; register"):
        load_factory("brief")
    register("no panel at all")
    with pytest.raises(UsageError, match="str without check, with_changes, build; register a fun"):
        load_factory("brief")
