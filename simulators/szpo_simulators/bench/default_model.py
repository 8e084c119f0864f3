"""The default model in coordinates with named features, for benches that read its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from szpo.config.settings_file import load
from szpo.data import prompts as promptfiles
from szpo.errors import UsageError
from szpo.optim.named_features import NamedFeatures
from szpo.types import Prompt

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy


def prepare(
    sets: Sequence[str], say: Callable[[str], None]
) -> tuple[LoraPolicy, NamedFeatures, tuple[Prompt, ...]]:
    """The policy at its start, the features in its coordinates, and the training prompts.

    Args:
        sets: Changes to the default settings.
        say: Called with lines about progress.
    """
    from szpo.policies import language_model

    config = load(sets=sets)
    train = promptfiles.load_configured(config.prompts).train
    host = language_model.load_host(config, adapter=False)
    base = language_model.prepare(config, host, train, say)
    subspace = base.subspace
    if subspace.features is None:
        raise UsageError(f"subspace.kind is {config.coordinates}; set features, which have names")
    named = subspace.features.named()
    settings = config.optimizer_settings(subspace.layout, subspace.scale, named)
    return language_model.make_policy(config, base, settings), named, train
