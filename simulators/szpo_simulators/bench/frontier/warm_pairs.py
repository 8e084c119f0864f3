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
    own = {name: spec[name] for name in ("run", "sets", "seed", "pairs")}
    path = folder / "pairs" / f"{hash_spec(own)[:16]}.jsonl"
    base.make_once(path, folder, lambda: _draw(spec, folder, path))
    return path


def _draw(spec: Mapping[str, Any], folder: Path, path: Path) -> None:
    count, taste = spec["pairs"]["count"], spec["pairs"]["reward"]
    beta = base.load({**spec, "reward": taste}, folder).beta["pair"]
    prompts = shared_setup.load_prompts(spec).train
    each = math.ceil(count / len(prompts))
    few = prompts[: math.ceil(count / each)]
    drawn = shared_setup.load_configured_actor(load_config(spec)).sample(
        few, 2 * each, seed=spec["seed"]
    )
    values = text_rewards.matrix(text_rewards.parse(taste), few, drawn).reshape(-1, 2)
    first = special.expit(beta * (values[:, 0] - values[:, 1]))
    wins = uniform(derive(spec["seed"], "pairs to begin with"), len(first)) < first
    pairs = [
        Pair(few[i // each], *(both if won else both[::-1]))
        for i, won in enumerate(wins.tolist())
        if (both := drawn[i // each][2 * (i % each) : 2 * (i % each) + 2])[0].text != both[1].text
    ]
    preference_files.write(path, pairs[:count])
