"""A branch: a new run that begins with the weights of another run after one of its steps.

Settings, prompts and panel are the parent's; the rule may be another one. Votes and optimizer
state are not taken over: what the parent learned is in the weights. The parent's file gains one
event and is otherwise unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from szpo import seeds
from szpo.errors import UsageError
from szpo.evaluators.panel_factory import PEOPLE
from szpo.ledger import run_spec, witness
from szpo.ledger.creation import NewRun, draw_seed
from szpo.ledger.database import Ledger
from szpo.ledger.rows import THETA0
from szpo.ledger.theta import stored_tensors
from szpo.optim import superseded
from szpo.optim.checked_settings import (
    TWO_POINT_SETTINGS,
    defaults,
    read_recorded,
    settings_from_json,
    settings_to_json,
)
from szpo.optim.rules.registry import has_two_points, rule_of
from szpo.optim.settings import Settings
from szpo.replay import replay
from szpo.training.step_report import flatten


def branch(
    path: str | Path,
    step: int,
    new_path: str | Path,
    *,
    by: str,
    seed: int | None = None,
    rule: str | None = None,
    share: float = 1.0,
) -> Ledger:
    """Write the branch's ledger and open it.

    Its θ₀ is the parent's weights after ``step``, bit for bit; with a ``share`` below 1, that
    share of the way from the parent's θ₀ to them. Without ``seed``, its root seed derives from the
    parent's, the step and the new file's name; where people vote it is drawn, since the parent's
    may be known by then. ``rule`` replaces the parent's rule; its prior and warm-up are then
    dropped.

    Raises:
        UsageError: the parent has not applied that step, the seed is out of range, or the rule
            does not go with the parent's other settings.
        StorageError: the new file exists or cannot be written.
        IntegrityError: the parent's updates do not give the weights it recorded.
        SupersededError: the parent's rule no longer exists, and ``rule`` is None.
    """
    new_path = Path(new_path)
    with Ledger.open(path) as parent:
        row = parent.step(step) if step >= 0 else None
        if row is None or row["state"] != "applied":
            state = "does not exist" if row is None else f"is {row['state']}"
            last = parent.last_applied()
            known = "no step is applied yet" if last is None else f"the last applied is {last}"
            raise UsageError(f"{parent.path.name}: step {step} {state}; {known}")
        if rule is None:
            run_spec.require_current(parent)
        theta = replay.point_on_line(parent, share, step + 1)
        if seed is not None:
            root = seed
        elif parent.spec.get("config", {}).get("panel", {}).get("kind") == PEOPLE:
            root = draw_seed()
        else:
            root = seeds.branch_seed(parent.root_seed, step, new_path.stem)
        seeds.derive(root, "branch")  # raises if the seed is out of range
        spec = _spec(parent.spec, root, rule)
        if rule_of(spec["optimizer"]["rule"]).two_points:  # its ball is around the model's start
            spec["optimizer"]["start"] = flatten(theta, parent.layout).tolist()
        factors = {
            name: value
            for name, value in stored_tensors(parent).items()
            if not name.startswith(THETA0)
        }
        # The parent's file is not locked: people vote there while the weights are written.
        with Ledger.create(
            new_path,
            NewRun(
                spec,
                root_seed=root,
                layout=parent.layout,
                direction_version=run_spec.direction_version(spec),
                base_sha256=parent.row["base_sha256"],
                basis_sha256=parent.basis_sha256,
                tensors={**factors, **{f"{THETA0}{name}": value for name, value in theta.items()}},
                parent=parent.run,
                parent_step=step,
            ),
            clock=parent.clock,
        ) as child:
            body = {"after": step, "run": child.run, "name": new_path.stem}
            if share < 1:
                body["share"] = share
        try:
            parent.record_event("branch", by, body)
        except BaseException:
            new_path.unlink(missing_ok=True)
            witness.forget(new_path)
            raise
    return Ledger.open(new_path)


def _spec(spec: Mapping[str, Any], root_seed: int, rule: str | None) -> dict[str, Any]:
    """The parent's spec with another seed (and rule), and without a name."""
    made: dict[str, Any] = json.loads(json.dumps(spec))
    made["optimizer"]["root_seed"] = root_seed
    if "config" in made:
        made["config"]["run"] |= {"seed": root_seed, "name": None}
    if made["optimizer"].pop("earlier_votes", None) is not None:
        made.pop("prior")
    if rule is None:
        return made
    parent = read_recorded(spec["optimizer"])
    own = made["optimizer"] = superseded.keep_current(made["optimizer"])
    nothing = dict.fromkeys(("prior_mean", "prior_precision", "prior_chances"))
    own |= {"rule": rule, "warmup": 0, **nothing}
    made.pop("prior", None)
    if rule_of(rule).two_points != has_two_points(parent.rule):
        own |= _asked_as_by(rule, parent)
    if rule_of(rule).can_warm_up:  # as long a warm-up as a run that begins with that rule
        own["warmup"] = defaults(
            root_seed, parent.layout, rule=rule, alpha=parent.alpha,
        ).warmup  # fmt: skip
    for name in TWO_POINT_SETTINGS:
        if own.get(name) is None:
            own.pop(name, None)
    settings_from_json(own)
    if "config" in made:
        changed = {"rule": rule, "warmup": None, "prior": None}
        if own["K"] != parent.K or own["N"] != parent.N:
            changed |= {"directions": own["K"], "comparisons": own["N"], "law": "auto"}
        made["config"]["optimizer"] |= changed
    return made


def _asked_as_by(rule: str, parent: Settings) -> dict[str, Any]:
    """The new rule's default law, K and N, and settings that only two-point rules have."""
    usual = settings_to_json(
        defaults(parent.root_seed, parent.layout, rule=rule, D=parent.D, M=parent.M)
    )
    names = ("law", "K", "N", *TWO_POINT_SETTINGS)
    return {name: usual.get(name) for name in names}
