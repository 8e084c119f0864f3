"""Panels by name, as packages register them at the entry point `szpo.evaluators`.

``panel.kind`` is the name. Register a `PanelFactory`, or a function that returns a panel::

    def panel(*, size, reward, rows, seed, logprob, beta, answers=None): ...

The function gets settings as keywords (``answers`` only in a new run) and returns an object with
``judges`` and ``spec``. `load_factory` returns both as a `PanelFactory`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from szpo import plugins
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.features.user_features import JUDGE, Rate
from szpo.types import Answer, Floats, Prompt
from szpo.voting.evaluator import Evaluator, Judge
from szpo.voting.panel_evaluator import FUNCTION, FunctionPanel, PanelEvaluator
from szpo.voting.service import VoteService

GROUP = "szpo.evaluators"
PEOPLE = "people"
"""The kind that needs no factory: people vote through the ledger."""

BaseAnswers: TypeAlias = Callable[[], tuple[Sequence[Prompt], Sequence[Sequence[Answer]]]]
"""Returns prompts, and for each the same number (two or more) of the base policy's answers."""
Logprob: TypeAlias = Callable[[Sequence[Prompt], Sequence[Answer]], Floats]
"""Mean log-probability per token of each answer under the starting policy, nats."""


@dataclass(frozen=True, slots=True, eq=False)
class StartingPolicy:
    """The parts of a run's starting policy that a panel may use; None where there is none."""

    answers: BaseAnswers | None = None
    """Answers to fit the panel to, in a new run; a resumed run has the fit on record."""
    logprob: Logprob | None = None
    host: Any = None
    """The `szpo.policies.backend.Backend` of a language model; it can load a judge's model too."""


class RunPanel(Protocol):
    """A panel that votes in the process of a run; its ``str`` is shown to the user."""

    @property
    def judges(self) -> Sequence[Judge]:
        """One per panelist."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The panel as JSON values, for the run's record."""

    def evaluator(self, service: VoteService) -> Evaluator:
        """The panel at a vote service."""


@runtime_checkable
class PanelFactory(Protocol):
    """Makes the panel of a run from its settings.

    If its name may carry changes, as in ``bt70+side=.3``, it also has ``with_changes("side=.3")``,
    which returns a factory.
    """

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Check the settings before a model is loaded."""

    def build(
        self, config: Config, start: StartingPolicy, recorded: Mapping[str, Any] | None = None
    ) -> RunPanel:
        """Build the panel of a new run, or of a run that ``recorded`` this ``spec``."""


@dataclass(frozen=True, slots=True)
class JudgesPanel:
    """A panel without an evaluator of its own: `PanelEvaluator` asks its judges."""

    judges: tuple[Judge, ...]
    spec: Mapping[str, Any]
    text: str

    def evaluator(self, service: VoteService) -> PanelEvaluator:
        """The judges, each a panelist, seated by a seeded round robin."""
        return PanelEvaluator(service, self.judges)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class FunctionFactory:
    """A function that returns a panel, as a `PanelFactory`."""

    name: str
    function: Callable[..., Any]

    def check(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Nothing to do: only the function itself can refuse settings."""

    def build(
        self, config: Config, start: StartingPolicy, recorded: Mapping[str, Any] | None = None
    ) -> RunPanel:
        """Call the function with the settings."""
        more = {} if start.answers is None else {"answers": start.answers}
        found = self.function(
            reward=config.panel.reward,
            size=config.panel.size,
            rows=config.optimizer.D,
            seed=0,
            logprob=start.logprob,
            beta=sharpness(config, recorded),
            **more,
        )
        own = hasattr(found, "evaluator")
        needed = ("spec",) if own else ("judges", "spec")
        if missing := [name for name in needed if not hasattr(found, name)]:
            raise UsageError(
                f'panel "{self.name}" gave {type(found).__name__} without '
                f"{' and '.join(missing)}; a panel has judges and a spec"
            )
        if not own:
            found = JudgesPanel(tuple(found.judges), found.spec, str(found))
        panel: RunPanel = found
        return panel


def load_factory(kind: str) -> PanelFactory | None:
    """The factory that ``panel.kind`` names, with the changes after a "+"; None for people."""
    if kind == PEOPLE:
        return None
    if kind == FUNCTION:
        return FunctionPanel()
    plain, _, changes = kind.partition("+")
    name = plain if plain in plugins.names(GROUP) else kind
    factory = as_factory(name, plugins.load(GROUP, name, "panel.kind", builtin=(PEOPLE,)))
    if not changes:
        return factory
    if not hasattr(factory, "with_changes"):
        raise UsageError(f'panel.kind "{name}" takes no changes; name it without "+{changes}"')
    changed: PanelFactory = factory.with_changes(changes)
    return changed


def find_rate(config: Config, host: Any) -> Rate | None:
    """The function that lets the settings' judge rate answers; None where no feature is rated.

    ``host`` is a `szpo.policies.backend.Backend`, which can load the judge's model.
    """
    if not config.features.judged:
        return None
    found: Rate = plugins.load(GROUP, JUDGE, "evaluator").rate(config, host)
    return found


def check_rate(config: Config, prompts: Sequence[Prompt]) -> None:
    """Where features are judged, check that the judge can rate answers to these prompts."""
    if config.features.judged:
        plugins.load(GROUP, JUDGE, "evaluator").check_ratings(config, prompts)


def as_factory(name: str, found: object) -> PanelFactory:
    """Turn an object from an entry point into a `PanelFactory`."""
    if isinstance(found, PanelFactory):
        return found
    if callable(found) and not hasattr(found, "build"):
        return FunctionFactory(name, found)
    lacks = [part for part in ("check", "build") if not hasattr(found, part)]
    raise UsageError(
        f'panel "{name}" is {type(found).__name__} without {", ".join(lacks)}; register a '
        "function, or an object with check and build (see szpo.voting.panel_factory)"
    )


def sharpness(config: Config, recorded: Mapping[str, Any] | None) -> float | None:
    """β of a simulated panel: as fitted when the run began, else as set; None: not fitted yet."""
    fitted = (recorded or {}).get("calibration") or {}
    beta: float | None = fitted.get("beta", config.panel.beta)
    return beta
