"""Make a set of LoRA adapters of one base: one for each named feature, reward or taste.

All share their A. Each is made as a policy is improved (`szpo.improvement.policy_gradient`), on
its aim's score, which counts within the range that the start's answers had, until its nats are
spent. Then it is drawn back until fresh answers keep its nats and guards. All are rounded to fp16
before they are judged, as the files are.

The prompts are the training ones of the settings, never their held-out ones: most are answered to
learn from, the others to judge by, and by these answers nothing was chosen but how far to draw
back. The nats in ``set.json`` are theirs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import cache, seeds
from szpo.config.schema import Config
from szpo.errors import StorageError, UsageError
from szpo.files import private, replace_whole, try_lock
from szpo.improvement import aims as named
from szpo.improvement import policy_gradient
from szpo.improvement.aims import Aim
from szpo.improvement.draw_back import draw_back
from szpo.improvement.policy_gradient import Ascent, Pace, Score
from szpo.models import adapters, loading
from szpo.models.adapters import SET, UNFINISHED
from szpo.models.lora import Site
from szpo.policies import text_guards
from szpo.policies.backend import Backend
from szpo.policies.basis import ANSWERS_EACH, centre
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.protocol import moved
from szpo.policies.subspace_setup import INPUT_SAMPLES, probe_of, sampling_of
from szpo.policies.subspaces import Subspace, every_b
from szpo.policies.text_guards import Guard, TextFigures
from szpo.types import Answer, Floats, Progress, Prompt, Theta, unseen

VERSION: Final = 4
"""Part of each adapter's key; increase it when adapters are made in another way."""
JUDGED: Final = 32
"""Most prompts on which the made adapters are judged; a quarter of all at most."""
TOPIC: Final = 20
"""How many of them the guard of the topic reads, one answer to each."""
JUDGED_EACH: Final = 2
"""Answers to each of them."""
PACE: Final = Pace(step_nats=0.1, steps=40)
"""Longer steps than those of an improvement, which is one policy and not sixteen."""


@dataclass(frozen=True)
class Making:
    """How a set is made."""

    nats: float = 3.0
    answers: int = 512
    """Answers of the start that all adapters share: within what these had a score counts."""
    pace: Pace = PACE
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Ground:
    """What all adapters of a set share: their A, and what the start's answers say."""

    whole: Subspace
    bounds: tuple[tuple[float, float], ...]
    """The range in which each aim's values count."""
    spread: Floats
    """(aims,): standard deviations within prompts; 0 where no answer differs."""


@dataclass(frozen=True, eq=False)
class End:
    """An adapter to be, judged on prompts that it has not seen."""

    theta: Theta
    nats: float
    stderr: float
    """Of the nats, over prompts."""
    values: Floats
    """(aims,): mean of each aim."""
    figures: TextFigures
    first: tuple[tuple[Answer], ...]
    """Its first answer to each prompt."""
    guards: tuple[Guard, ...]
    answers: int = 0
    """Answers drawn to find it."""
    scale: float = 1.0
    """How much of its way from the start is left, in (0, 1], after it was drawn back."""

    def failed(self, aim: Aim) -> int:
        """How many guards that bind this aim do not hold."""
        return sum(not guard.ok and guard.name not in aim.waived for guard in self.guards)


def split_prompts(prompts: Sequence[Prompt], seed: int) -> tuple[tuple[Prompt, ...], ...]:
    """Split training prompts into those to learn from and those to judge by at the end."""
    if (found := len(set(prompts))) < 12:
        raise UsageError(f"a set takes 12 different training prompts or more; got {found}")
    return seeds.split(prompts, seeds.derive(seed, "adapter prompts"), JUDGED, 4)


class SetMaker:
    """Makes the adapters of one set, one after the other, in one folder."""

    def __init__(
        self, host: Backend, config: Config, prompts: Sequence[Prompt], aims: Sequence[Aim],
        making: Making, folder: Path, progress: Progress = unseen,
    ):  # fmt: skip
        """``folder`` is created, or has adapters of the same base; see `holding`."""
        self.host, self.config, self.aims, self.making = host, config, tuple(aims), making
        self.taught, self.judged = split_prompts(prompts, making.seed)
        text = json.dumps([[p.turns for p in part] for part in (self.taught, self.judged)])
        self.prompts_sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.sampling = sampling_of(config)
        self.sites, self.conv1d = host.places(config.adapter, None)
        self.folder, self.progress = folder, progress

    # ---- what is made already ----

    def key(self, aim: Aim) -> str:
        """Digest of everything that an adapter depends on."""
        facts = self.host.facts
        named = [
            VERSION, facts.sha256, facts.dtype,
            {**self.config.adapter.model_dump(mode="json"), "train": "B"}, self.sampling.facts(),
            self.prompts_sha256, aim.feature, aim.sign, asdict(self.making),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    def read_set(self) -> dict[str, Any]:
        """What ``set.json`` says; a new one without it.

        Raises:
            UsageError: The folder belongs to another model, or to something else.
        """
        found, facts = adapters.read_set(self.folder), self.host.facts
        if not found:
            if self.folder.is_dir() and any(e.name[0] != "." for e in self.folder.iterdir()):
                raise UsageError(f"{self.folder} holds something else; name a new folder")
            return {
                "base": facts.name, "base_sha256": facts.identity.files.sha256, "adapters": [],
                "sampling": self.sampling.facts(), "seed": self.making.seed,
                "prompts_sha256": self.prompts_sha256,
            }  # fmt: skip
        try:
            base = found["base_sha256"]
            for each in found["adapters"]:
                each["key"]
        except KeyError as error:
            raise UsageError(f"{self.folder / SET} is no list of adapters ({error!r})") from None
        if base != facts.identity.files.sha256:
            raise UsageError(
                f"{self.folder} has adapters of {found.get('base')}, another model than "
                f"{facts.name}; name another folder"
            )
        return found

    def make(self) -> Iterator[tuple[Aim, dict[str, Any]]]:
        """Make what is missing; yields each aim with its entry, or with ``why`` it has none."""
        document = self.read_set()
        keys = {aim.name: self.key(aim) for aim in self.aims}
        there = [each for each in document["adapters"] if self._is_there(each)]
        kept = {e["name"]: e for e in there if e["key"] == keys.get(e["name"])}
        slugs = {aim.slug for aim in self.aims}
        others = [e for e in there if e["name"] not in keys and e["folder"] not in slugs]
        ground: Ground | None = None
        for place, aim in enumerate(self.aims):
            entry = kept.get(aim.name)
            if entry is None:
                if ground is None:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    ground = self._find_ground()
                    policy = self._policy(ground.whole)
                    base = self._judge(policy, policy.start(), None)
                    base = self._read_topic(policy, base, None)
                self.progress(aim.name, place, len(self.aims))
                entry = self._make_one(place, aim, policy, ground, base)
                if entry.get("folder"):
                    kept[aim.name] = entry
                    listed = [kept[each.name] for each in self.aims if each.name in kept]
                    self._write({**document, "adapters": [*others, *listed]})
            yield aim, entry
        with contextlib.suppress(OSError):
            self._ground_file.unlink()

    def _is_there(self, entry: Mapping[str, Any]) -> bool:
        return (self.folder / str(entry["folder"]) / "adapter_model.safetensors").is_file()

    def _write(self, document: Mapping[str, Any]) -> None:
        try:
            with replace_whole(self.folder / SET) as draft:
                draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be written ({error.strerror})") from None

    # ---- what all share ----

    @property
    def _ground_file(self) -> Path:
        keys = "".join(self.key(aim) for aim in self.aims)
        return self.folder / f"{UNFINISHED}{hashlib.sha256(keys.encode()).hexdigest()[:16]}.npz"

    def _policy(self, whole: Subspace) -> LoraPolicy:
        return LoraPolicy(
            self.host.facts, whole, root_seed=self.making.seed, sampling=self.sampling,
            host=self.host,
        )  # fmt: skip

    def _find_ground(self) -> Ground:
        """Read the shared part that an interrupted making left, or make it."""
        found = cache.read_stored(self._ground_file, self._read_ground)
        if found is None:
            found = self._make_ground()
            a: dict[str, Any] = {f"A/{name}": v for name, v in found.whole.fixed.items()}
            with replace_whole(self._ground_file) as draft, draft.open("wb") as file:
                np.savez(file, **a, bounds=np.array(found.bounds), spread=found.spread)
        return found

    def _read_ground(self, path: Path) -> Ground:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            A = {n.removeprefix("A/"): file[n] for n in file.files if n.startswith("A/")}
            bounds = tuple((float(low), float(high)) for low, high in file["bounds"])
            return Ground(every_b(self.sites, A), bounds, file["spread"])

    def _make_ground(self) -> Ground:
        blank, seed = every_b(self.sites, {}), self.making.seed
        probe = probe_of(self.host, blank, self.taught, self.sampling, seed, self.progress)
        base = probe.start_samples(self.making.answers, ANSWERS_EACH)
        read = probe.read_inputs(base[:INPUT_SAMPLES])
        whole = every_b(self.sites, {site.a: _short(read[site.a]) for site in self.sites})
        self.progress("counting features", 0, 0)
        answers = [
            loading.answer_of(self.host.facts, each.answer, self.sampling.stop) for each in base
        ]
        asked = [self.taught[each.group] for each in base]
        values = named.values_of(self.aims, self._policy(whole), asked, answers)
        bounds = tuple(map(named.bounds_of, self.aims, values.T))
        low, high = np.array(bounds).T
        apart = centre(np.clip(values, low, high), np.array([each.group for each in base]))
        return Ground(whole, bounds, apart.std(0))

    # ---- one adapter ----

    def _make_one(
        self, place: int, aim: Aim, policy: LoraPolicy, ground: Ground, base: End
    ) -> dict[str, Any]:
        began = time.monotonic()
        if not ground.spread[place]:
            return {"name": aim.name, "why": "all answers of the start are alike in it"}
        seed = seeds.child_seed(self.making.seed, place, f"adapter {aim.feature} {aim.sign}")
        state_file = self.folder / f".{aim.slug}-{self.key(aim)[:16]}.npz"
        score = named.bounded(named.score_of(aim, policy), *ground.bounds[place])
        found = self._climb(place, aim, policy, score, seed, state_file)
        end = self._judge(policy, found.theta, base, found.answers)
        best, drawn = self._draw_back(aim, policy, end, base)
        if best.nats > self.making.nats:
            state_file.unlink(missing_ok=True)
            return {"name": aim.name, "why": f"fresh answers tell it {best.nats:.2f} nats away"}
        if not best.values[place] > base.values[place]:
            state_file.unlink(missing_ok=True)
            return {"name": aim.name, "why": "it scores no more than the start"}
        entry = {
            "name": aim.name, "folder": aim.slug, "feature": aim.feature, "more": aim.sign > 0,
            "nats_allowed": self.making.nats, "nats": round(best.nats, 3),
            "nats_stderr": round(best.stderr, 3), "scale": round(best.scale, 4),
            "before": float(base.values[place] * aim.sign),
            "after": float(best.values[place] * aim.sign),
            "spread": float(ground.spread[place]),
            "others": {
                other.name: round(float(gap), 3)
                for other, gap in zip(self.aims, _gaps(best, base, ground), strict=True)
                if other is not aim and math.isfinite(gap)
            },
            "guards": [asdict(guard) for guard in best.guards],
            "seconds": round(time.monotonic() - began, 1),
            "answers": end.answers + drawn, "key": self.key(aim),
        }  # fmt: skip
        if aim.taste is not None:
            entry |= {"words": aim.taste.words, "verdicts": aim.taste.verdicts,
                      "people": aim.taste.people}  # fmt: skip
        self._save(aim, policy, best.theta)
        state_file.unlink(missing_ok=True)
        return entry

    def _climb(
        self, place: int, aim: Aim, policy: LoraPolicy, score: Score, seed: int, file: Path
    ) -> Ascent:
        """Improve on the score until the nats are spent; ``file`` keeps an interrupted state."""
        most = math.sqrt(self.making.nats)

        def ends(here: Ascent) -> bool:
            policy_gradient.save(here, file, {})
            self.progress(f"{aim.name}: step {len(here.steps)}", place, len(self.aims))
            last = here.steps[-1] if here.steps else None
            return last is not None and math.sqrt(last.nats) + math.sqrt(last.cost) >= most

        kept = cache.read_stored(file, policy_gradient.load)
        return policy_gradient.climb(
            policy, score, self.taught, self.making.pace, seed=seed, since=kept and kept[0],
            until=ends,
        )  # fmt: skip

    def _draw_back(self, aim: Aim, policy: LoraPolicy, chosen: End, base: End) -> tuple[End, int]:
        """The chosen end where fresh answers keep nats and guards, and how many were drawn."""
        drawn = 0

        def read(scale: float, number: int) -> End:
            nonlocal drawn
            self.progress("fresh answers", number, 0)
            theta = _short_all(_scaled(chosen.theta, scale))
            seed = seeds.child_seed(self.making.seed, number, "adapter nats")
            with moved(policy, theta):
                nats, stderr = policy.kl(self.judged, seed=seed, samples=JUDGED_EACH)
            drawn += len(self.judged) * JUDGED_EACH
            return replace(chosen, theta=theta, nats=nats, stderr=stderr, scale=scale)

        def guard(end: End) -> tuple[End, bool]:
            nonlocal drawn
            if end.scale < 1:
                there = self._judge(policy, end.theta, base)
                drawn += there.answers
                end = replace(there, nats=end.nats, stderr=end.stderr, scale=end.scale)
            end = self._read_topic(policy, end, base)
            return end, not end.failed(aim)

        return draw_back(read, guard, self.making.nats), drawn

    def _judge(self, policy: LoraPolicy, theta: Theta, base: End | None, drawn: int = 0) -> End:
        """Measure a candidate, as its file will have it, on the judging prompts."""
        self.progress("judging", 0, 0)
        theta = _short_all(theta)
        asked, seed = self.judged, self.making.seed
        with moved(policy, theta):
            rows = policy.sample_tokens(asked, JUDGED_EACH, seed=seed, base=base is None)
            nats, stderr = (0.0, 0.0) if base is None else policy.kl_of(asked, rows)
        answers = [policy.answer(row) for row in rows]
        each = [prompt for prompt in asked for _ in range(JUDGED_EACH)]
        values = named.values_of(self.aims, policy, each, answers)
        grouped = [answers[i : i + JUDGED_EACH] for i in range(0, len(answers), JUDGED_EACH)]
        figures = text_guards.measure(policy, asked, grouped, seed=seed, topic=False)
        guards = text_guards.guards(figures if base is None else base.figures, figures)
        first = tuple((answer,) for answer in answers[::JUDGED_EACH])
        return End(theta, nats, stderr, values.mean(0), figures, first, guards, drawn + len(rows))

    def _read_topic(self, policy: LoraPolicy, end: End, base: End | None) -> End:
        """The candidate with the guard of the topic."""
        self.progress("reading: topic", 0, 0)
        asked = self.judged[:TOPIC]
        margin = text_guards.measure_margin(
            policy, asked, end.first[:TOPIC], seed=self.making.seed
        )
        others = 0 if margin is None else min(text_guards.OTHERS, len(asked) - 1)
        figures = replace(end.figures, margin=margin, others=others)
        held = text_guards.guards(figures if base is None else base.figures, figures)
        return replace(end, figures=figures, guards=held)

    def _save(self, aim: Aim, policy: LoraPolicy, theta: Theta) -> None:
        target = self.folder / aim.slug
        draft = self.folder / f".{aim.slug}.new"
        shutil.rmtree(draft, ignore_errors=True)
        adapters.save_adapter(
            draft, policy.factors(theta), self.sites, base=self.host.facts.name,
            conv1d=self.conv1d, half=True,
        )  # fmt: skip
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a set's folder, so that only one process makes adapters there."""
    place = folder.absolute().with_name(f".{folder.name}.lock")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = open(place, "ab", opener=private)  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror})") from None
    with file:
        if not try_lock(file.fileno()):
            raise UsageError(f"another process is making adapters in {folder}")
        yield
        place.unlink(missing_ok=True)


def _scaled(theta: Theta, scale: float) -> Theta:
    """The B at this share of their way from the start, which is 0."""
    return {name: value * np.float32(scale) for name, value in theta.items()}


def _short_all(theta: Theta) -> Theta:
    """A policy as its file will have it."""
    return {name: _short(value) for name, value in theta.items()}


def _short(values: Any) -> Any:
    """Rounded as the files have it."""
    return np.asarray(values).astype(np.float16).astype(np.float32)


def _gaps(end: End, base: End, ground: Ground) -> Floats:
    """How far each aim moved, in spreads of the start; nan where none differed there."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((end.values - base.values) / ground.spread)


def read_nats(
    host: Backend, config: Config, folder: Path, prompts: Sequence[Prompt], *, seed: int,
    scale: float = 1.0,
) -> tuple[float, float]:  # fmt: skip
    """Read what an adapter in a folder costs, by one answer to each of these prompts.

    ``scale``: of its B, as `rescale` would write them.

    Returns:
        Its KL to the base in nats an answer, and the standard error over prompts.
    """
    sites, a, b, _ = _read_adapter(host, config, folder)
    policy = LoraPolicy(
        host.facts, every_b(sites, a), root_seed=seed, sampling=sampling_of(config), host=host
    )
    with moved(policy, _short_all(_scaled(b, scale))):
        return policy.kl(prompts, seed=seed)


def rescale(host: Backend, config: Config, folder: Path, scale: float) -> None:
    """Write an adapter's folder anew with its B at this share of their way from the start."""
    sites, a, b, conv1d = _read_adapter(host, config, folder)
    adapters.save_adapter(
        folder, {**a, **_scaled(b, scale)}, sites, base=host.facts.name, conv1d=conv1d, half=True
    )


def _read_adapter(
    host: Backend, config: Config, folder: Path
) -> tuple[tuple[Site, ...], Theta, Theta, bool]:
    """Sites, A, B, and whether some layers are GPT-2's transposed ones."""
    adapter = adapters.read_adapter(folder)
    sites, conv1d = host.places(config.adapter, adapter.config)
    own = adapters.factors(adapter, sites)
    a, b = {site.a: own[site.a] for site in sites}, {site.b: own[site.b] for site in sites}
    return sites, a, b, conv1d
