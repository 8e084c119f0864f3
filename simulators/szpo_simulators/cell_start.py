"""The start of a plan's cells: the model before any vote, and measurements along a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from szpo import memory, metrics, seeds
from szpo.analysis.features import Score
from szpo.baselines.asking import JudgesAsk
from szpo.baselines.asking import Score as Proxy
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.data.prompts import PromptSet, load_configured
from szpo.errors import UsageError
from szpo.policies import text_guards
from szpo.runs.assemble import SHARPNESS_PROMPTS, SHARPNESS_SAMPLES
from szpo.types import Answer, Floats, Prompt
from szpo.voting.seats import Letter
from szpo_simulators.cell_records import Spec, hash_spec, make_once, read_record, write_record
from szpo_simulators.panels import heldout, text_rewards
from szpo_simulators.panels import panel as panels

if TYPE_CHECKING:
    from szpo.baselines.actor import Actor
    from szpo.policies.lora_policy import LoraPolicy

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_ONLY: Final = "5"
"""Writing this to `CLEAR` resets the peak of resident memory to the current value."""
MEASURING: Final = 0
"""Seed of the held-out random numbers; all cells use it, so that policies are paired."""
MANY_AT_ONCE: Final = 10
"""Answers to each prompt in one call of `draw_many`."""


@dataclass(frozen=True)
class Yardstick:
    """How every cell of a plan is measured: the same prompts, samples and random numbers."""

    prompts: tuple[Prompt, ...]
    samples: int
    score: Score
    base: heldout.Measurement
    """Measurement of the model before any vote."""

    def row(
        self, policy: LoraPolicy, share: float, cost: Mapping[str, Any],
        proxy: Proxy | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """A checkpoint as plain JSON: reward, gain with its interval over prompts, guards, cost.

        ``by_prompt`` is the gain on each held-out prompt. ``win_rate`` is the share of pairs (an
        answer of the policy, one of the base model to the same prompt; all pairs of samples) in
        which the policy's reward is higher; ties count a half. ``proxy`` is the mean of a learned
        reward.
        """
        seen: list[tuple[Prompt, Answer]] = []

        def score(prompt: Prompt, answer: Answer) -> float:
            seen.append((prompt, answer))
            return self.score(prompt, answer)

        found = heldout.measure(policy, self.prompts, score, samples=self.samples, seed=MEASURING)
        mean, low, high = metrics.gain(self.base.rewards, found.rewards, seed=MEASURING)
        learned = None if proxy is None else proxy([p for p, _ in seen], [a for _, a in seen])
        return {
            "share": share,
            **cost,
            "reward": float(found.rewards.mean()),
            "gain": mean,
            "interval": [low, high],
            "by_prompt": (found.rewards.mean(1) - self.base.rewards.mean(1)).tolist(),
            "win_rate": metrics.win_rate(metrics.versus(found.rewards, self.base.rewards)).value,
            "kl": found.kl,
            "kl_stderr": found.kl_stderr,
            "length": found.tokens,
            "logprob": found.logprob,
            "distinct2": found.distinct2,
            "margin": found.margin,
            "guards": [asdict(guard) for guard in text_guards.guards(self.base, found)],
            "proxy": None if learned is None else float(np.mean(learned)),
        }


def measurement_to_json(found: heldout.Measurement) -> dict[str, Any]:
    """A measurement as plain JSON; `measurement_from_json` reads it back."""
    return {**asdict(found), "rewards": found.rewards.tolist()}


def measurement_from_json(body: Mapping[str, Any]) -> heldout.Measurement:
    """The measurement that `measurement_to_json` wrote."""
    texts = tuple(tuple(row) for row in body["texts"])
    return heldout.Measurement(**{**body, "rewards": np.array(body["rewards"]), "texts": texts})


@dataclass
class Checkpoints:
    """The rows of one run, in order, one at each checkpoint."""

    yardstick: Yardstick
    shares: Sequence[float]
    """Shares of the run at which it is measured, ascending."""
    report: Callable[[float], None] = lambda share: None
    """Called with the finished share of the run, in [0, 1]."""
    proxy: Proxy | None = None
    """A learned reward that is measured beside the true one; None until one is trained."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    machine: MachineMeter = field(default_factory=lambda: MachineMeter())

    def record(self, policy: Any, share: float, cost: Mapping[str, float]) -> None:
        """Measure the policy if a checkpoint is due; the method is not charged for measuring.

        ``share``: finished share of the run, in [0, 1]. ``cost``: votes, answers_read and tokens
        so far.
        """
        total = {**cost, **self.machine.cost()}
        with self.machine.aside():
            due = len(self.rows) < len(self.shares)
            if due and share >= self.shares[len(self.rows)] - 1e-9:
                self.rows.append(self.yardstick.row(policy, share, total, self.proxy))
            self.report(share)


def even_shares(points: int | Sequence[float]) -> list[float]:
    """The shares of ``points``: the shares themselves, or the number of even ones.

    >>> even_shares(2), even_shares([0.1, 1.0])
    ([0.5, 1.0], [0.1, 1.0])
    """
    if isinstance(points, int):
        return [(i + 1) / points for i in range(points)]
    return list(points)


class MachineMeter:
    """Seconds, processor seconds and memory of this process since the meter was created.

    A cell has its own process, so everything in that process is counted, but for `aside`.
    """

    def __init__(self) -> None:
        self._began = self._now()
        self._apart = (0.0, 0.0)
        self._peak = 0
        _reset_peak()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()

    def cost(self) -> dict[str, float]:
        """Seconds, cpu_seconds and peak_bytes, without what was spent in `aside`.

        If the system cannot reset the peak, it is that of the whole process.
        """
        now = self._now()
        wall, cpu = (now[i] - self._began[i] - self._apart[i] for i in (0, 1))
        return {
            "seconds": wall, "cpu_seconds": cpu, "peak_bytes": max(_read_peak(), self._peak),
        }  # fmt: skip

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Charge nothing within the block."""
        since = self._now()
        self._peak = max(self._peak, _read_peak())
        try:
            yield
        finally:
            _reset_peak()
            now = self._now()
            self._apart = (
                self._apart[0] + now[0] - since[0],
                self._apart[1] + now[1] - since[1],
            )


def _read_peak() -> int:
    """The peak of resident memory since `_reset_peak`, in bytes."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return memory.peak_bytes()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else memory.peak_bytes()


def _reset_peak() -> None:
    with suppress(OSError):  # a system that cannot do so reports the process's whole peak
        CLEAR.write_text(PEAK_ONLY)


def load_config(spec: Spec) -> Config:
    """The run's configuration: every method starts from its model, LoRA sites and prompts.

    Each seed has its own set-up, and coordinates are made by auto, unless the cell names others.
    """
    sets = [f"run.seed={spec['seed']}", f"subspace.setup_seed={spec['seed']}",
            f"panel.reward={spec['reward']}", f"panel.kind={spec['panel']}",
            *spec["sets"]]  # fmt: skip
    return settings_file.load(preset_name=spec["run"], sets=sets)


def load_actor(spec: Spec) -> Actor:
    """A cell's model for a gradient method, with its own LoRA on the sites that szpo moves."""
    from szpo.baselines.actor import Actor
    from szpo.policies import language_model

    config = load_config(spec)
    model = language_model.load_plain(config, say=lambda text: None)
    return Actor(
        model.loaded, model.sites, model.start, sampling=model.sampling, seed=config.run.root_seed
    )


def load_prompts(spec: Spec) -> PromptSet:
    """The prompts of all cells: training prompts and held-out prompts."""
    found = load_configured(load_config(spec).prompts)
    if not found.heldout:
        raise UsageError(
            "compare: no prompts are held out to measure on; mark some with split = heldout"
        )
    return found


def heldout_prompts(spec: Spec) -> tuple[Prompt, ...]:
    """The held-out prompts on which a cell is measured."""
    return load_prompts(spec).heldout[slice(*spec["heldout"])]


def load(spec: Spec, folder: Path) -> tuple[Yardstick, dict[str, float]]:
    """The cell's yardstick with the start, read or measured now, and β by way of asking.

    All rewards use the same texts of the start: each reward scores them again.
    """
    path = _path_of_texts(spec, folder)
    make_once(path, folder, lambda: write_record(path, _key(spec), _measure(spec)))
    body = read_record(path)["found"]
    asked, reward = heldout_prompts(spec), text_rewards.parse(spec["reward"])
    found = measurement_from_json(body["measurement"])
    measured = replace(found, rewards=_score(reward, asked, found.texts))
    train = load_prompts(spec).train[:SHARPNESS_PROMPTS]
    values = _score(reward, train, body["calibration"])
    beta = {
        name: panels.calibrate(values, rows).beta
        for name, rows in (("batch", spec["D"]), ("pair", 1))
    }
    return Yardstick(asked, spec["answers"], reward.score, measured), beta


def _measure(spec: Spec) -> dict[str, Any]:
    policy, train = load_actor(spec), load_prompts(spec).train
    drawn = policy.sample(train[:SHARPNESS_PROMPTS], SHARPNESS_SAMPLES, seed=0)
    found = heldout.measure(
        policy, heldout_prompts(spec), lambda *_: 0.0, samples=spec["answers"], seed=MEASURING,
        moved=False,
    )  # fmt: skip
    return {
        "measurement": measurement_to_json(found),
        "calibration": [[answer.text for answer in row] for row in drawn],
    }


def build_ask(spec: Spec, beta: Mapping[str, float]) -> JudgesAsk:
    """The simulated panel, fitted to batches of D rows and to single pairs."""
    size = load_config(spec).panel.size
    of_batches, of_pairs = (
        panels.build(spec["panel"], reward=spec["reward"], size=size, rows=rows, beta=beta[name])
        for name, rows in (("batch", spec["D"]), ("pair", 1))
    )
    return JudgesAsk(of_batches.judges, of_pairs.judges, alternate_sides)


def alternate_sides(key: bytes, questions: int, judges: int) -> list[tuple[bytes, Letter]]:
    """A key and the side of plus for each question; sides alternate for each member.

    Members answer in turn and see plus equally often on each side, as in a run of szpo.
    """
    found: list[tuple[bytes, Letter]] = []
    for n in range(questions):
        lap = n // judges
        # Else, with an even number of members, each would always see plus on the same side.
        side: Letter = "B" if (n + lap * (judges % 2 == 0)) % 2 else "A"
        found.append((seeds.derive(0, "asked", k=n, name=key.hex()), side))
    return found


def draw_many(spec: Spec, folder: Path, count: int) -> None:
    """Draw ``count`` answers of the start to each prompt of `heldout_prompts`, unless stored."""
    path = path_of_many(spec, folder, count)

    def make() -> None:
        asked, policy = heldout_prompts(spec), load_actor(spec)
        calls = math.ceil(count / MANY_AT_ONCE)
        parts = [policy.sample(asked, MANY_AT_ONCE, seed=1 + i) for i in range(calls)]
        texts = [
            [answer.text for part in parts for answer in part[i]][:count]
            for i in range(len(asked))
        ]
        asked_of = {**_key(spec), "answers": count}
        write_record(path, asked_of, {"measurement": {"texts": texts}})

    make_once(path, folder, make)


def offset(spec: Spec, folder: Path, count: int) -> Floats | None:
    """Correction to add to a cell's gain on each prompt, (prompts,); None if not known.

    Every cell is compared with the same few answers of the start. Their sampling error is shared
    by all gains, and no interval over seeds covers it. The correction is the mean reward of those
    few answers minus that of ``count`` other answers.
    """
    many, few = path_of_many(spec, folder, count), _path_of_texts(spec, folder)
    if not count or not many.exists() or not few.exists():
        return None
    asked = heldout_prompts(spec)
    return _mean_rewards(few, asked, spec["reward"]) - _mean_rewards(many, asked, spec["reward"])


@lru_cache
def _mean_rewards(path: Path, prompts: tuple[Prompt, ...], reward: str) -> Floats:
    texts = read_record(path)["found"]["measurement"]["texts"]
    return np.asarray(_score(text_rewards.parse(reward), prompts, texts).mean(1))


def _score(reward: Any, prompts: Sequence[Prompt], texts: Any) -> Any:
    answers = [[Answer(text) for text in row] for row in texts]
    return text_rewards.matrix(reward, prompts, answers)


def _path_of_texts(spec: Spec, folder: Path) -> Path:
    return folder / "base" / f"{hash_spec(_key(spec))[:16]}.json"


def path_of_many(spec: Spec, folder: Path, count: int) -> Path:
    """The file of `draw_many`."""
    few = _path_of_texts(spec, folder)
    return few.with_name(f"{few.stem}-{count}.json")


def _key(spec: Spec) -> dict[str, Any]:
    config = load_config(spec)
    return {
        "model": config.model.model_dump(mode="json"),
        "prompts": config.prompts.model_dump(mode="json"),
        "generation": config.generation.model_dump(mode="json"),
        **{name: spec[name] for name in ("version", "heldout", "answers")},
    }
