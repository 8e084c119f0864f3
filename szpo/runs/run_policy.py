"""A run's language model as its policy, with whoever answers for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from szpo.config.schema import Config
from szpo.optim.settings import Settings

if TYPE_CHECKING:
    from szpo.policies.language_model import Base
    from szpo.policies.lora_policy import LoraPolicy


def make(config: Config, base: Base, settings: Settings, *, driven: bool) -> LoraPolicy:
    """Make the policy at its start; a run that is ``driven`` gets the workers of its engine.

    Raises:
        UsageError, ResourceError: The engine cannot be had.
        IntegrityError: A worker holds another model than the run.
    """
    from szpo.policies import language_model

    policy = language_model.make_policy(config, base, settings)
    if driven and config.engine.kind == "ray":
        from szpo.cluster import remote

        policy.answer_by(remote.connect(config.engine, base.loaded, policy.responder))
    return policy
