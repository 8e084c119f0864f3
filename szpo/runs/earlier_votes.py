"""Let the votes of an earlier run count in full as the new run's own: `optimizer.prior`.

Model, prompts and coordinates must be the same. The votes are recorded in the new run's settings
when it is created, so replay and verify need no other file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from szpo import files
from szpo.config.schema import Config
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_settings
from szpo.optim.all_votes import with_earlier_votes
from szpo.optim.optimizer import has_two_points
from szpo.optim.settings import Settings
from szpo.optim.vote_regression import Votes
from szpo.policies.subspaces import Subspace
from szpo.replay import replay
from szpo.voting import withdrawals

NAME: Final = "optimizer.prior"


def check(config: Config, *, language: bool) -> None:
    """Refuse a file whose votes cannot count, before a model is loaded.

    ``language``: the run's policy is a language model.
    """
    if not language:
        raise UsageError(
            f"settings: {NAME} needs a language model, which policy {config.model.name} is not; "
            "leave it out"
        )
    if _path(config).suffix != ".db":
        raise UsageError(
            f"settings: {NAME} {_path(config).name} is no run's .db; pairs of elsewhere train an "
            "adapter: szpo baseline dpo --pairs FILE, then set model.adapter"
        )
    Ledger.open(_path(config), readonly=True).close()


def take(
    config: Config, settings: Settings, identity: Mapping[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """The settings in which the earlier run's votes count, and the facts for the run's spec.

    ``identity``: the new run's ``base_sha256``, ``basis_sha256`` and ``prompts``, as in a ledger.
    """
    with Ledger.open(_path(config), readonly=True) as ledger:
        _require_equal(ledger, config, settings, identity)
        last = ledger.last_event()
        assert last is not None, "a ledger's first event is written with it"
        votes = read_votes(ledger)
        facts = {
            "file": ledger.path.name, "sha256": last["row_sha256"],
            "full": round(float((votes.up + votes.down).sum())),
        }  # fmt: skip
    return with_earlier_votes(settings, votes), facts


def read_votes(ledger: Ledger) -> Votes:
    """All votes of a run with their regressors, without withdrawn ones."""
    settings = recorded_settings(ledger)
    state = replay.replay_state(ledger, settings)
    return withdrawals.votes_left(ledger, settings, state).votes


def foretell(config: Config, space: Subspace | None, identity: Mapping[str, Any]) -> str:
    """How the votes will count, before a model is loaded; ``space``: if it is stored."""
    if space is None:
        with Ledger.open(_path(config), readonly=True) as ledger:
            _require_equal(ledger, config, None, identity)
        return f"votes of {_path(config).name} count in full, if the coordinates are the same"
    named = space.named()
    settings = config.optimizer_settings(space.layout, space.scale, named)
    return describe(take(config, settings, {**identity, "basis_sha256": space.basis_sha256})[1])


def describe(facts: Mapping[str, Any]) -> str:
    """A sentence for the user when the run begins."""
    same = "same model, prompts and coordinates"
    return f"{facts['full']:,} votes of {facts['file']} count in full ({same})"


def _path(config: Config) -> Path:
    return files.expand(str(config.optimizer.prior))


def _require_equal(
    ledger: Ledger, config: Config, settings: Settings | None, identity: Mapping[str, Any]
) -> None:
    """Refuse a run that differs; ``settings`` None: the new run's coordinates are unknown."""
    past = recorded_settings(ledger)
    mine = past if settings is None else settings
    both = [(s.layout, s.scale, s.score_share, s.features, s.section.mu, s.section.kl_radius,
             s.section.pairing) for s in (past, mine)]  # fmt: skip
    then = ledger.spec.get("config") or {"model": {}, "generation": {}}  # begun by no settings
    now = config.model_dump(mode="json")
    model = ledger.row["base_sha256"] == identity["base_sha256"]
    coordinates = settings is None or ledger.row["basis_sha256"] == identity["basis_sha256"]
    same = {
        "its rule": has_two_points(past.section.rule),
        "its model": model and then["model"].get("adapter") == now["model"]["adapter"],
        "its prompts": ledger.spec["prompts"]["sha256"] == identity["prompts"],
        "the length or the temperature of answers": then["generation"] == now["generation"],
        "its coordinates": coordinates and both[0] == both[1],
        "how its votes weigh": past.section.weighting == mine.section.weighting == "equal",
    }
    if differs := next((what for what, equal in same.items() if not equal), ""):
        raise UsageError(
            f"settings: {NAME} {ledger.path.name} differs in {differs}, so its votes cannot count "
            f"here; go on with it by szpo run --resume {ledger.path} --votes +N, or train on them "
            f"by szpo baseline dpo --run {ledger.path} and set model.adapter"
        )
