"""The configuration of a run that a cell starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from szpo.config import settings_file
from szpo.config.schema import Config


def load_config(spec: Mapping[str, Any]) -> Config:
    """The run's configuration: every method starts from its model, LoRA sites and prompts.

    Seeds differ in their set-up as well, so that intervals over them cover it.
    """
    sets = [f"run.seed={spec['seed']}", f"subspace.setup_seed={spec['seed']}",
            f"panel.reward={spec['reward']}", f"panel.kind={spec['panel']}",
            *spec["sets"]]  # fmt: skip
    return settings_file.load(preset_name=spec["run"], sets=sets)
