"""One step as its record has it: its row and its events, read once, and what follows from them.

Four events tell of a step. "asked" is committed with its plan, before any answer is generated and
so before any vote: the recorded directions, and the explanations of votes that they were drawn
from. "generated" has the centre that answered, the candidates and figures of the answers.
"regressors" has the inputs of the fit besides votes, and joins the hash chain before the fit.
"step" has the figures of the applied step, and the KL measured at the point that the votes
proposed. Replay and verify recompute from these, without model or file; verify draws directions
anew, but cannot prove that the model gave the inputs. Withdrawn verdicts have events of
their own (`szpo.voting.withdrawals`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from szpo.errors import IntegrityError
from szpo.features import user_features
from szpo.ledger import canonical
from szpo.ledger.database import Ledger, Record
from szpo.optim import optimizer
from szpo.optim.kl_limits import KlMeasurement
from szpo.optim.named_features import NamedFeatures
from szpo.optim.optimizer import rule_of
from szpo.optim.rule import StepInputs
from szpo.optim.settings import Settings
from szpo.types import Asked, Explanation, Floats, Query
from szpo.voting import shown_states, withdrawals

PLAN_LIMIT: Final = 2**15
"""The bound of signed 16-bit integers."""
DIGITS: Final = 6
"""Decimals of recorded scores."""
Kind = Literal["asked", "generated", "regressors", "step"]
EVENTS: Final = get_args(Kind)

Body: TypeAlias = Mapping[str, Any]


def note_plan(step: int, asked: Asked) -> dict[str, Any]:
    """The body of the event "asked"."""
    ways = [[way.chance, list(way.regressors), list(way.weights)] for way in asked.ways]
    grids = [list(grid) for grid in asked.grids]
    return {"step": step, "asked_after": asked.after, "ways": ways, "directions": grids}


def note_inputs(step: int, inputs: StepInputs) -> dict[str, Any]:
    """The body of the event "regressors" of a step; the centre is in the event "generated"."""
    scores = inputs.scores
    found = {
        "scores": None if scores is None else np.round(scores, DIGITS).tolist(),
        "features": None if inputs.text_differences is None else inputs.text_differences.tolist(),
        "states": None if inputs.states is None else shown_states.packed(inputs.states),
        "ratings": {name: list(values) for name, values in inputs.ratings.items()} or None,
    }
    given = {name: value for name, value in found.items() if value is not None}
    return {"step": step, **given}


def text_digest(text: str) -> str:
    """The first 16 hex digits of a text's SHA-256, as the record names a candidate."""
    return canonical.sha256(text)[:16]


@dataclass(frozen=True, slots=True)
class Step:
    """A planned step: its row, and the bodies of its four events (see above)."""

    row: Record
    texts: Mapping[str, str]
    """The bodies as recorded, by kind of event."""

    def body(self, kind: Kind) -> Body:
        """What the event of this kind says; empty where it is not recorded."""
        found: Body = json.loads(self.texts.get(kind, "{}"))
        return found

    @property
    def number(self) -> int:
        """The step's number, from 0."""
        return int(self.row["step"])

    def settings(self, settings: Settings) -> Settings:
        """The settings with this step's N, which is larger while more people vote."""
        n = self.row["n"]
        return settings if n == settings.section.N else settings.change(N=n)

    def plan(self, settings: Settings) -> Asked | None:
        """What the directions were drawn from; None where the seed alone gives them."""
        if not settings.asks_posterior:
            return None
        if not (body := self.body("asked")):
            raise IntegrityError(f'step {self.number}: it has 0 events "asked", not one')
        try:
            return _asked(body, settings)
        except (KeyError, TypeError, ValueError):
            problem = 'its event "asked" does not hold directions and what they were drawn from'
            raise IntegrityError(f"step {self.number}: {problem}") from None

    def query(self, settings: Settings) -> Query:
        """The optimizer's query."""
        return optimizer.query(settings, self.number, self.row["mu"], asked=self.plan(settings))

    def inputs(self, ledger: Ledger, settings: Settings) -> StepInputs:
        """The recorded inputs of the fit; IntegrityError where one is missing or malformed."""
        if not rule_of(settings.section.rule).two_points:
            return StepInputs()
        step, noted, named = self.number, self.body("regressors"), settings.features
        if not noted:
            raise IntegrityError(f'step {step}: it has no event "regressors"')
        shape = settings.section.K, self.row["n"]
        centre = _array(step, self.body("generated"), "centre", (settings.dim,))
        by_scores = named is not None and not named.coordinates
        scores = _array(step, noted, "scores", (*shape, named.components if named else 0))
        features = None
        if named is not None and named.names:
            features = _array(step, noted, "features", (*shape, len(named.names)))
            if features is not None and (features != np.rint(features)).any():
                raise IntegrityError(f"step {step}: the recorded features are not whole numbers")
        wanted = {
            "centre": centre is None and not settings.idle,
            "scores": by_scores and scores is None,
            "features": named is not None and bool(named.names) and features is None,
        }
        if missing := [name for name, is_missing in wanted.items() if is_missing]:
            raise IntegrityError(f"step {step}: its inputs of the fit have no {missing[0]}")
        states = apart = None
        if named is not None and named.states is not None:
            states, apart = self._states(ledger, named)
        return StepInputs(
            scores, centre,
            None if features is None else features.astype(np.int64), states, apart,
            _ratings(step, noted), self.reach, withdrawals.read_recounted(ledger, settings, step),
        )  # fmt: skip

    def states(self, ledger: Ledger, named: NamedFeatures) -> NDArray[np.int16]:
        """The recorded states (texts, width) of its texts, in the order of `shown_of`."""
        return self._states(ledger, named)[0]

    def _states(self, ledger: Ledger, named: NamedFeatures) -> tuple[NDArray[np.int16], Floats]:
        """The recorded states of the step's texts, and their differences."""
        packed = self.body("regressors").get("states")
        if named.states is None or packed is None:
            raise IntegrityError(f"step {self.number}: its inputs of the fit have no states")
        comparisons = ledger.comparisons(self.number)
        texts = len(shown_states.shown_of(comparisons))
        try:
            found = shown_states.unpacked(packed, texts, named.states.width)
        except IntegrityError as error:
            raise IntegrityError(f"step {self.number}: {error}") from None
        return found, shown_states.differences_of(comparisons, found)

    @property
    def reach(self) -> KlMeasurement | None:
        """What was measured of the point that its votes proposed; None where nothing was.

        Raises:
            IntegrityError: the record of it cannot be read.
        """
        noted = self.body("step").get("reach")
        try:
            return None if noted is None else KlMeasurement.from_json(noted)
        except (KeyError, TypeError, ValueError):
            problem = "what was measured of its point cannot be read"
            raise IntegrityError(f"step {self.number}: {problem}") from None


def read_steps(ledger: Ledger, step: int | None = None) -> tuple[Step, ...]:
    """All planned steps, or one if it is planned, in order.

    Raises:
        IntegrityError: a step was planned twice.
    """
    rows = ledger.steps() if step is None else [row] if (row := ledger.step(step)) else []
    one = "" if step is None else "AND step = ?"
    events = ledger.query(
        "SELECT kind, json_extract(body, '$.step') AS step, body FROM events "
        f"WHERE kind IN (?, ?, ?, ?) {one} ORDER BY event",
        EVENTS if step is None else (*EVENTS, step),
    )
    texts: dict[int, dict[str, str]] = {row["step"]: {} for row in rows}
    for event in events:
        found = texts.get(event["step"], {})
        if event["kind"] == "asked" and "asked" in found:
            raise IntegrityError(f'step {event["step"]}: it has 2 events "asked", not one')
        found[event["kind"]] = event["body"]
    return tuple(Step(row, texts[row["step"]]) for row in rows)


def read_step(ledger: Ledger, step: int) -> Step:
    """A planned step; IntegrityError where there is none."""
    found = read_steps(ledger, step)
    if not found:
        raise IntegrityError(f"step {step} is missing from {ledger.path.name}")
    return found[0]


def _asked(body: Body, settings: Settings) -> Asked:
    """Parse the body of the event "asked"."""
    columns = 0 if settings.features is None else settings.features.columns
    ways = []
    for chance, at, weights in body["ways"]:
        ways.append(
            Explanation(
                chance, _integers(at, 0, columns), _integers(weights, -PLAN_LIMIT, PLAN_LIMIT)
            )
        )
        if not at or len(at) != len(weights) or not any(weights):
            raise ValueError("a way has no weight on a regressor")
    _integers([way.chance for way in ways], 1, 2 * PLAN_LIMIT)
    (after,) = _integers([body["asked_after"]], 0, body["step"] + 1)
    grids = tuple(_integers(grid, -PLAN_LIMIT, PLAN_LIMIT) for grid in body["directions"])
    if [len(grid) for grid in grids] != [settings.dim] * (settings.section.K if ways else 0):
        raise ValueError("directions are of other coordinates, or of another number")
    return Asked(after, tuple(ways), grids)


def _integers(values: Sequence[Any], low: int, end: int) -> tuple[int, ...]:
    if not all(type(value) is int and low <= value < end for value in values):
        raise ValueError(f"not integers from {low} below {end}")
    return tuple(values)


def _ratings(step: int, noted: Body) -> dict[str, tuple[int, ...]]:
    found = noted.get("ratings", {})
    try:
        ratings = {str(name): tuple(values) for name, values in found.items()}
    except (AttributeError, TypeError):
        ratings = {"": ("",)}
    if any(
        type(each) is not int or abs(each) > user_features.LARGEST
        for v in ratings.values()
        for each in v
    ):
        raise IntegrityError(f"step {step}: the recorded ratings are not whole numbers")
    return ratings


def _array(step: int, noted: Body, name: str, shape: tuple[int, ...]) -> Floats | None:
    if noted.get(name) is None:
        return None
    try:
        values = np.asarray(noted[name], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != shape or not np.isfinite(values).all():
        raise IntegrityError(f"step {step}: the recorded {name} are not {shape} finite numbers")
    return values
