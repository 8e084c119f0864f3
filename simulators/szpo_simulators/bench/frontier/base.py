"""The model before any vote: measured once, and shared by all cells that are measured like it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from szpo.config.schema import Config
from szpo.files import replace_whole
from szpo.runs.assemble import CALIBRATION_PROMPTS, CALIBRATION_SAMPLES
from szpo.types import Answer, Prompt
from szpo_simulators.compare import shared_setup
from szpo_simulators.compare.cell_config import load_config
from szpo_simulators.compare.checkpoints import (
    Yardstick,
    measurement_from_json,
    measurement_to_json,
)
from szpo_simulators.panels import panel as panels
from szpo_simulators.rewards import heldout, text_rewards
from szpo_simulators.study import claim, hash_spec

SEED: Final = 0
"""Of the held-out random numbers, the same for every cell, so that policies are paired."""
WAIT: Final = 1.0
"""Seconds between looks at what another process is making."""


@dataclass(frozen=True)
class Base:
    """The start as a cell is compared with it."""

    yardstick: Yardstick
    beta: Mapping[str, float]
    """Of the panel, for batches of D rows and for single pairs."""


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process makes what this lock stands for, and hold it."""
    while True:
        with claim(lock) as held:
            if held is not None:
                yield
                return
        time.sleep(WAIT)


def load(spec: Mapping[str, Any], folder: Path) -> Base:
    """The base of a cell, from the folder or measured now.

    Its texts serve every taste: rewards read texts, so they are scored anew for each.
    """
    body = _load_texts(spec, folder)
    prompts = shared_setup.load_prompts(spec)
    asked = prompts.heldout[slice(*spec["heldout"])]
    reward = text_rewards.parse(spec["reward"])
    found = measurement_from_json(body["measurement"])
    rewards = _score(reward, asked, found.texts)
    values = _score(reward, prompts.train[:CALIBRATION_PROMPTS], body["calibration"])
    rows = {"batch": spec["D"], "pair": 1}
    beta = {name: panels.calibrate(values, many, 0).beta for name, many in rows.items()}
    measured = replace(found, rewards=rewards)
    return Base(Yardstick(asked, spec["answers"], SEED, reward.score, measured), beta)


def _score(reward: Any, prompts: Any, texts: Any) -> Any:
    return text_rewards.matrix(reward, prompts, [[Answer(text) for text in row] for row in texts])


def _load_texts(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    config = load_config(spec)
    key = {
        "model": config.model.model_dump(mode="json"),
        "prompts": config.prompts.model_dump(mode="json"),
        "generation": config.generation.model_dump(mode="json"),
        **{name: spec[name] for name in ("version", "heldout", "answers")},
    }
    path = folder / "base" / f"{hash_spec(key)[:16]}.json"
    if not path.exists():
        with alone(folder / "locks" / f"base-{path.stem}.lock"):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                made = json.dumps({"asked": key, "found": _measure(config, spec)})
                with replace_whole(path) as draft:
                    draft.write_text(made, encoding="utf-8")
    body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["found"]
    return body


def _measure(config: Config, spec: Mapping[str, Any]) -> dict[str, Any]:
    policy, prompts = shared_setup.load_configured_actor(config), shared_setup.load_prompts(spec)
    drawn = policy.sample(prompts.train[:CALIBRATION_PROMPTS], CALIBRATION_SAMPLES, seed=0)

    def score_none(prompt: Prompt, answer: Answer) -> float:
        return 0.0

    asked = prompts.heldout[slice(*spec["heldout"])]
    found = heldout.measure(
        policy, asked, score_none, samples=spec["answers"], seed=SEED, moved=False
    )
    return {
        "measurement": measurement_to_json(found),
        "calibration": [[answer.text for answer in row] for row in drawn],
    }
