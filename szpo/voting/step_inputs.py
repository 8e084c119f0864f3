"""The recorded inputs of a step besides its votes.

The inputs of the fit are in the event "regressors", which joins the hash chain before the fit. The
centre that answered is in the event "generated", and the KL measured at the point that the votes
proposed in the event "step". Replay and verify recompute from these numbers, without model or
file; they cannot prove that the model gave them. Groups of features that are set aside have events
of their own (`szpo.voting.set_aside`), and so have withdrawn verdicts
(`szpo.voting.withdrawals`).
"""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np

from szpo.errors import IntegrityError, UsageError
from szpo.features import own
from szpo.ledger import canonical
from szpo.ledger.database import Ledger
from szpo.optim.rules.guard_geometry import Moments
from szpo.optim.rules.measured_kl import KlMeasurement
from szpo.optim.rules.registry import rule_of
from szpo.optim.rules.rule import StepInputs
from szpo.optim.settings import Settings
from szpo.types import Floats
from szpo.voting import set_aside, step_plan, withdrawals

DIGITS: Final = 6
"""Decimals of recorded scores."""


def note(step: int, inputs: StepInputs) -> dict[str, Any]:
    """The body of the event "regressors" of a step; the centre is in the event "generated"."""
    scores = inputs.scores
    found = {
        "scores": None if scores is None else np.round(scores, DIGITS).tolist(),
        "moments": None if inputs.moments is None else inputs.moments.to_json(),
        "features": None if inputs.text_differences is None else inputs.text_differences.tolist(),
        "ratings": {name: list(values) for name, values in inputs.ratings.items()} or None,
    }
    given = {name: value for name, value in found.items() if value is not None}
    return {"step": step, **given}


def text_digest(text: str) -> str:
    """The first 16 hex digits of a text's SHA-256, as the record names a candidate."""
    return canonical.sha256(text)[:16]


def read(ledger: Ledger, settings: Settings, step: int) -> StepInputs:
    """Read the recorded inputs of a step."""
    if not rule_of(settings.section.rule).two_points:
        return StepInputs()
    noted = body_of(ledger, "regressors", step)
    if not noted:
        raise IntegrityError(f'step {step}: it has no event "regressors"')
    noted["centre"] = body_of(ledger, "generated", step).get("centre")
    centre = _array(step, noted, "centre", (settings.dim,))
    named = settings.features
    shape = settings.section.K, step_plan.settings_of(ledger, settings, step).section.N
    scored = settings.dim if named is None else named.components
    scores = _array(step, noted, "scores", (*shape, scored))
    features = None
    if named is not None and named.names:
        features = _array(step, noted, "features", (*shape, len(named.names)))
        if features is not None and (features != np.rint(features)).any():
            raise IntegrityError(f"step {step}: the recorded features are not whole numbers")
    wanted = {
        "centre": centre is None,
        "scores": scores is None
        and bool(settings.score_share or (named is not None and not named.coordinates)),
        "features": named is not None and bool(named.names) and features is None,
    }
    if missing := [name for name, is_missing in wanted.items() if is_missing]:
        raise IntegrityError(f"step {step}: its inputs of the fit have no {missing[0]}")
    whole = None if features is None else features.astype(np.int64)
    moments = _moments(step, noted, settings.dim)
    reach = _reach(ledger, step)
    aside = () if named is None else set_aside.read(ledger, named, step)
    withdrawn = withdrawals.read(ledger, settings, step)
    return StepInputs(
        scores, centre, moments, whole, _ratings(step, noted), aside, reach, withdrawn
    )


def body_of(ledger: Ledger, kind: str, step: int) -> dict[str, Any]:
    """The body of the last event of this kind about a step; empty where there is none."""
    events = ledger.query(
        "SELECT body FROM events WHERE kind = ? AND json_extract(body, '$.step') = ? "
        "ORDER BY event DESC LIMIT 1",
        (kind, step),
    )
    return json.loads(events[0]["body"]) if events else {}


def _reach(ledger: Ledger, step: int) -> KlMeasurement | None:
    noted = body_of(ledger, "step", step).get("reach")
    try:
        return None if noted is None else KlMeasurement.from_json(noted)
    except (KeyError, TypeError, ValueError):
        raise IntegrityError(
            f"step {step}: what was measured of its point cannot be read"
        ) from None


def _moments(step: int, noted: dict[str, Any], dim: int) -> Moments | None:
    if noted.get("moments") is None:
        return None
    try:
        return Moments.from_json(noted["moments"], dim)
    except (AttributeError, TypeError, UsageError, ValueError):
        raise IntegrityError(
            f"step {step}: the recorded moments are not those of {dim} coordinates"
        ) from None


def _ratings(step: int, noted: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    found = noted.get("ratings", {})
    try:
        ratings = {str(name): tuple(values) for name, values in found.items()}
    except (AttributeError, TypeError):
        ratings = {"": ("",)}
    if any(
        type(each) is not int or abs(each) > own.LARGEST for v in ratings.values() for each in v
    ):
        raise IntegrityError(f"step {step}: the recorded ratings are not whole numbers")
    return ratings


def _array(step: int, noted: dict[str, Any], name: str, shape: tuple[int, ...]) -> Floats | None:
    if noted.get(name) is None:
        return None
    try:
        values = np.asarray(noted[name], dtype=np.float64)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if values.shape != shape or not np.isfinite(values).all():
        raise IntegrityError(f"step {step}: the recorded {name} are not {shape} finite numbers")
    return values
