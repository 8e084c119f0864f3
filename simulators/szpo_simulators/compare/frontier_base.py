"""The model before any vote: measured once, and shared by all cells with the same measurement."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo.types import Answer, Floats, Prompt
from szpo_simulators.compare import shared_setup
from szpo_simulators.compare.checkpoints import (
    Yardstick,
    measurement_from_json,
    measurement_to_json,
)
from szpo_simulators.compare.shared_setup import MEASURING, load_config
from szpo_simulators.panels import text_rewards
from szpo_simulators.study import claim, hash_spec, read_record, write_record

MANY_AT_ONCE: Final = 10
"""Answers to each prompt in one call of `draw_many`."""
WAIT: Final = 1.0
"""Seconds between checks of a lock that another process holds."""


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process holds this lock, then hold it."""
    while True:
        with claim(lock) as held:
            if held is not None:
                yield
                return
        time.sleep(WAIT)


def load(spec: Mapping[str, Any], folder: Path) -> tuple[Yardstick, dict[str, float]]:
    """The cell's yardstick with the base, read or measured now, and β by way of asking.

    All rewards use the same texts of the base: each reward scores them again.
    """
    path = _path_of_texts(spec, folder)
    make_once(path, folder, lambda: write_record(path, _key(spec), _measure(spec)))
    body = read_record(path)["found"]
    asked, reward = heldout_prompts(spec), text_rewards.parse(spec["reward"])
    found = measurement_from_json(body["measurement"])
    measured = replace(found, rewards=_score(reward, asked, found.texts))
    fitted = shared_setup.fit_panels(spec, reward, _as_answers(body["calibration"]))
    beta = {name: one.beta for name, one in fitted.items()}
    return Yardstick(asked, spec["answers"], MEASURING, reward.score, measured), beta


def heldout_prompts(spec: Mapping[str, Any]) -> tuple[Prompt, ...]:
    """The held-out prompts on which a cell is measured."""
    return shared_setup.load_prompts(spec).heldout[slice(*spec["heldout"])]


def make_once(path: Path, folder: Path, make: Callable[[], None]) -> None:
    """Make a file unless it exists; if several processes ask, only one makes it."""
    if path.exists():
        return
    with alone(folder / "locks" / f"{path.parent.name}-{path.stem}.lock"):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make()


def draw_many(spec: Mapping[str, Any], folder: Path, count: int) -> None:
    """Draw ``count`` answers of the base to each prompt of `heldout_prompts`, unless stored."""
    path = _path_of_many(spec, folder, count)

    def make() -> None:
        asked, policy = heldout_prompts(spec), shared_setup.load_actor(spec)
        calls = math.ceil(count / MANY_AT_ONCE)
        parts = [policy.sample(asked, MANY_AT_ONCE, seed=1 + i) for i in range(calls)]
        texts = [
            [answer.text for part in parts for answer in part[i]][:count]
            for i in range(len(asked))
        ]
        asked_of = {**_key(spec), "answers": count}
        write_record(path, asked_of, {"measurement": {"texts": texts}})

    make_once(path, folder, make)


def offset(spec: Mapping[str, Any], folder: Path, count: int) -> Floats | None:
    """Correction to add to a cell's gain on each prompt, (prompts,); None if not known.

    Every cell is compared with the same few answers of the base. Their sampling error is shared
    by all gains, and no interval over seeds covers it. The correction is the mean reward of those
    few answers minus that of ``count`` other answers.
    """
    many, few = _path_of_many(spec, folder, count), _path_of_texts(spec, folder)
    if not count or not many.exists() or not few.exists():
        return None
    asked = heldout_prompts(spec)
    return _mean_rewards(few, asked, spec["reward"]) - _mean_rewards(many, asked, spec["reward"])


@lru_cache
def _mean_rewards(path: Path, prompts: tuple[Prompt, ...], reward: str) -> Floats:
    texts = read_record(path)["found"]["measurement"]["texts"]
    return np.asarray(_score(text_rewards.parse(reward), prompts, texts).mean(1))


def _path_of_many(spec: Mapping[str, Any], folder: Path, count: int) -> Path:
    few = _path_of_texts(spec, folder)
    return few.with_name(f"{few.stem}-{count}.json")


def _score(reward: Any, prompts: Any, texts: Any) -> Any:
    return text_rewards.matrix(reward, prompts, _as_answers(texts))


def _as_answers(texts: Any) -> list[list[Answer]]:
    return [[Answer(text) for text in row] for row in texts]


def _key(spec: Mapping[str, Any]) -> dict[str, Any]:
    config = load_config(spec)
    return {
        "model": config.model.model_dump(mode="json"),
        "prompts": config.prompts.model_dump(mode="json"),
        "generation": config.generation.model_dump(mode="json"),
        **{name: spec[name] for name in ("version", "heldout", "answers")},
    }


def _path_of_texts(spec: Mapping[str, Any], folder: Path) -> Path:
    return folder / "base" / f"{hash_spec(_key(spec))[:16]}.json"


def _measure(spec: Mapping[str, Any]) -> dict[str, Any]:
    asked = heldout_prompts(spec)
    drawn, found = shared_setup.draw_base(spec, asked, spec["answers"], lambda *_: 0.0)
    return {
        "measurement": measurement_to_json(found),
        "calibration": [[answer.text for answer in row] for row in drawn],
    }
