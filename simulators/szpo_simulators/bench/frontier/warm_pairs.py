"""Preference pairs that a cell's run begins with: answers of the base, chosen by simulated people.

Their taste need not be the run's. The people are as sure of single answers as the panel `bt70` is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy import special

from szpo.data import preference_files
from szpo.data.pairs import Pair
from szpo.seeds import derive, uniform
from szpo_simulators.bench.frontier import base
from szpo_simulators.compare import shared_setup
from szpo_simulators.compare.cell_config import load_config
from szpo_simulators.rewards import text_rewards
from szpo_simulators.study import hash_spec


def make(spec: Mapping[str, Any], folder: Path) -> Path:
    """The file of a cell's pairs, in TRL's format; one that is there is not made again.

    ``spec["pairs"]`` has their ``count`` and the ``reward`` by which people chose. Pairs follow
    from the cell's seed, spread over the prompts to train on. Equal texts are no pair.
    """
    asked = spec["pairs"]
    own = {name: spec[name] for name in ("run", "sets", "seed", "pairs")}
    path = folder / "pairs" / f"{hash_spec(own)[:16]}.jsonl"
    if path.exists():
        return path
    reward = text_rewards.parse(asked["reward"])
    beta = base.load({**spec, "reward": asked["reward"]}, folder).beta["pair"]
    prompts = shared_setup.load_prompts(spec).train
    each = math.ceil(asked["count"] / len(prompts))
    few = prompts[: math.ceil(asked["count"] / each)]
    drawn = shared_setup.load_configured_actor(load_config(spec)).sample(
        few, 2 * each, seed=spec["seed"]
    )
    values = text_rewards.matrix(reward, few, drawn).reshape(-1, 2)
    first = special.expit(beta * (values[:, 0] - values[:, 1]))
    wins = uniform(derive(spec["seed"], "pairs to begin with"), len(first)) < first
    pairs = [
        Pair(few[i // each], *(both if won else both[::-1]))
        for i, won in enumerate(wins.tolist())
        if (both := drawn[i // each][2 * (i % each) : 2 * (i % each) + 2])[0].text != both[1].text
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    preference_files.write(path, pairs[: asked["count"]])
    return path
