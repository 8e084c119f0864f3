"""The configuration of a run that a cell starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.optim.superseded import GONE_RULES


def load_config(spec: Mapping[str, Any]) -> Config:
    """The run's configuration: every method starts from its model, LoRA sites and prompts.

    Seeds differ in their set-up as well, so that intervals over them cover it. Coordinates are
    score components where a cell names no others: such cells are measured. A rule that is gone
    is left out: such a cell is only shown, and what is shown of it asks no rule.
    """
    gone = {f"optimizer.rule={name}" for name in GONE_RULES}
    sets = [f"run.seed={spec['seed']}", f"subspace.setup_seed={spec['seed']}",
            f"panel.reward={spec['reward']}", f"panel.kind={spec['panel']}",
            "subspace.kind=score",
            *(one for one in spec["sets"] if one not in gone)]  # fmt: skip
    return settings_file.load(preset_name=spec["run"], sets=sets)
