"""`szpo bench surrogate`: how often votes show a taste, on recorded answers in place of a model.

The world of recorded answers (`szpo_simulators.worlds.recorded`) stands in for the policy, so that
a run takes a second. *Tastes*: how many runs show evidence, and name what is liked? *Chance*: and
how many where votes are thrown? *Calibration*: tastes are drawn from the dictionary itself, one
entry, two, or noise that no entry knows: is what a run says right as often as it says?

The answers are others than those that the coordinates were made of. The world knows no KL and no
guard, and where a policy's log-probability bends, it does not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from rich.progress import track

from szpo.config.settings_file import load
from szpo.data import prompts as promptfiles
from szpo.errors import RunError
from szpo.features import dictionary
from szpo.files import replace_whole
from szpo.intervals import wilson
from szpo.optim import named_features
from szpo.optim.named_features import Claim, NamedFeatures
from szpo.optim.posterior_directions import NOISE
from szpo.seeds import derive
from szpo.types import FEATURE_GRID, Answer, Floats, Ints, Prompt
from szpo_simulators.rewards import text_rewards
from szpo_simulators.study import Spec, Study, bench, make_generator
from szpo_simulators.worlds import recorded
from szpo_simulators.worlds.recorded import Plan, Recorded

TASTES: Final = {
    "sentiment": "sentiment",
    "no comma": "verify:no_comma",
    "first person": r"regex:\b(I|my|me|I'm)\b",
    "reader": r"regex:(?i)\b(you|your)\b",
}
ASKED: Final[Mapping[str, Mapping[str, int]]] = {
    "8 prompts": {},
    "4 prompts": {"rows": 4},
    "lag 1": {"lag": 1},
}
KINDS: Final = ("one entry", "two entries", "no entry")
RUNS, CHANCE, CALIBRATED = 60, 200, 500
PROMPTS, EACH = 40, 32
"""Training prompts, and recorded answers to each."""
SEED: Final = 90_000
"""Of the recorded answers."""
AT_ONCE: Final = 4
"""Prompts whose answers are drawn and read together."""
AGREEMENT: Final = 0.7
"""How often two votes of a simulated panelist on the same two batches agree."""
SAID: Final = 0.5
"""A group that is likelier than this is said to be found."""
FAR: Final = 0.2
"""KL of a recommended point, nats, that chance is to reach seldom."""
BANDS: Final = ((0.5, 0.7), (0.7, 0.9), (0.9, 0.97), (0.97, 1.0))
"""Of what is said, whose share right is reported."""
LOOKS: Final = (16, 32, 40)
GATE: Final = math.log(Plan(0.0).gate)


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Recorded answers of the start, N in order of their prompts."""

    prompts: tuple[Prompt, ...]
    of: Ints
    """(N,): the prompt of each answer."""
    texts: tuple[str, ...]
    scores: Floats
    """(N, d): along the coordinates."""
    named: NamedFeatures

    def features(self) -> Floats:
        """Of each answer (N, k), in units of the features' spreads."""
        entries = [dictionary.BY_NAME[name] for name in self.named.names]
        pairs = zip(self.of.tolist(), self.texts, strict=True)
        every = [dictionary.ratios(self.prompts[i].text, text, entries) for i, text in pairs]
        values = np.array([[top / bottom for top, bottom in row] for row in every])
        return np.asarray(values * FEATURE_GRID / np.array(self.named.scales))

    def reward(self, spec: str) -> Floats:
        """Of each answer (N,)."""
        asked = [self.prompts[i] for i in self.of]
        return text_rewards.scores(text_rewards.parse(spec), asked, list(map(Answer, self.texts)))


@bench("surrogate")
def main(study: Study) -> dict[str, list[dict[str, Any]]]:
    """Count runs of votes that show a taste, on recorded answers of the default model."""
    few = 20 if study.quick else 1
    found = draw_answers(study)
    liked = np.zeros(len(found.of))
    world = Recorded(found.of, found.features(), found.scores, found.named, liked)
    tables: dict[str, list[dict[str, Any]]] = {}
    specs: list[Spec] = [
        {"taste": taste, "asked": asked, "seeds": RUNS // few}
        for asked in ASKED
        for taste in TASTES
    ]
    rewards = {name: found.reward(spec) for name, spec in TASTES.items()}
    tables["tastes"] = study.cells("tastes", specs, partial(count_shown, world, rewards))
    specs = [{"chance": True, "seeds": CHANCE // few}]
    tables["chance"] = study.cells("chance votes", specs, partial(count_chance, world))
    specs = [{"kind": kind, "seeds": CALIBRATED // 3 // few} for kind in KINDS]
    said = study.cells("calibration", specs, partial(collect_said, world))
    tables["calibration"] = tabulate_said(said)
    for part, rows in tables.items():
        study.table(part, rows, {head: head for head in rows[0]})
        study.csv(part, rows)
    study.end()
    return tables


def draw_answers(study: Study) -> Answers:
    """The answers of the start that the study's folder has, or `EACH` to each prompt drawn now."""
    from szpo.policies import language_model

    config = load(preset_name="demo", sets=["model.device=cpu", "model.dtype=fp32"])
    train = promptfiles.load_configured(config.prompts).train
    order = make_generator(derive(SEED, "surrogate prompts")).permutation(len(train))
    prompts = tuple(train[i] for i in order[: 8 if study.quick else PROMPTS])
    base = language_model.prepare(
        config, language_model.load_host(config, adapter=False), train, study.console.print
    )
    subspace = base.subspace
    if subspace.features is None:
        raise RunError("surrogate: the demo's coordinates have no named features")
    named = subspace.features.named()
    file = study.folder / f"answers-{len(prompts)}.npz"
    if not file.exists():
        settings = config.optimizer_settings(subspace.layout, subspace.scale, named)
        policy = language_model.make_policy(config, base, settings)
        texts, scores = [], []
        for first in track(range(0, len(prompts), AT_ONCE), "answers", console=study.console):
            part = prompts[first : first + AT_ONCE]
            rows = policy.sample_tokens(part, EACH, seed=SEED + first)
            asked = [tokens for tokens in policy.encode_all(part) for _ in range(EACH)]
            scores.append(policy.whitened_scores(list(zip(asked, rows, strict=True))))
            texts += [policy.answer(row).text for row in rows]
        study.folder.mkdir(parents=True, exist_ok=True)
        with replace_whole(file) as draft, draft.open("wb") as opened:
            np.savez(opened, texts=np.array(texts), scores=np.concatenate(scores))
    with np.load(file, allow_pickle=False) as stored:
        of = np.repeat(np.arange(len(prompts)), EACH)
        return Answers(prompts, of, tuple(stored["texts"].tolist()), stored["scores"], named)


def count_shown(
    world: Recorded, rewards: Mapping[str, Floats], spec: Spec
) -> dict[str, float | str]:
    """Of how many runs the evidence passes the gate by 40 votes, and what they gain on average."""
    liked = replace(world, reward=rewards[spec["taste"]])
    plan = replace(Plan(0.0, noise=NOISE), **ASKED[spec["asked"]])
    looks = run_all(liked, spec, plan)
    last = [each[-1] for each in looks]
    gains = [liked.gain(look.found.w) for look in last if look.log_factor >= GATE]
    low, high = wilson(len(gains), len(last))
    return {
        "shown": len(gains), "runs": len(last), "low": low, "high": high,
        "gain per |z|": float(np.mean(gains)) if gains else 0.0,
    }  # fmt: skip


def count_chance(world: Recorded, spec: Spec) -> dict[str, float]:
    """Of how many runs of thrown votes the gate opens, a group is named, a point is far away."""
    plan = Plan(0.0, votes=120, noise=NOISE)
    looks = run_all(world, spec, plan, chance=True)
    opened = sum(each[-1].log_factor >= GATE for each in looks)
    said = sum(any(said_of(look, world.named) for look in each) for each in looks)
    nats = [
        [(recorded.recommend(world, plan, look) ** 2).sum() / 2 for look in run] for run in looks
    ]
    low, high = wilson(opened, len(looks))
    return {
        "opened": opened, "runs": len(looks), "low": low, "high": high, "said": said,
        "far": int(np.sum(np.max(nats, axis=1) > FAR)),
    }  # fmt: skip


def collect_said(world: Recorded, spec: Spec) -> dict[str, Any]:
    """All that runs say of tastes of a kind: votes, probability, and whether it is right."""
    found = []
    for seed in range(spec["seeds"]):
        draw = make_generator(derive(seed, "surrogate taste", name=spec["kind"]))
        named = world.named
        reward, right = draw.normal(size=len(world.prompts)), set[tuple[str, bool]]()
        if spec["kind"] != "no entry":
            chosen = draw.choice(len(named.names), 1 + (spec["kind"] == "two entries"), False)
            signs = draw.choice([-1.0, 1.0], len(chosen))
            reward = world.features[:, chosen] @ signs
            right = {(named.names[i], s > 0) for i, s in zip(chosen, signs, strict=True)}
        liked = replace(world, reward=reward)
        (looks,) = run_all(liked, {**spec, "seeds": 1, "first": seed}, Plan(0.0, noise=NOISE))
        for look in looks:
            if look.votes in LOOKS:
                found += [
                    [look.votes, claim.chance, is_right(claim, right, named)]
                    for claim in said_of(look, named)
                ]
    return {"runs": spec["seeds"], "said": found}


def tabulate_said(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By votes and by how likely it was said to be: how often it was right."""
    every = [tuple(each) for row in rows for each in row["said"]]
    found = []
    for votes in LOOKS:
        for low, high in BANDS:
            here = [(p, ok) for n, p, ok in every if n == votes and low < p <= high]
            if here:
                right = sum(ok for _, ok in here)
                mean = sum(p for p, _ in here) / len(here)
                below, above = wilson(right, len(here))
                found.append(
                    {"votes": votes, "said": mean, "claims": len(here), "right": right / len(here),
                     "low": below, "high": above}
                )  # fmt: skip
    return found


def run_all(
    world: Recorded, spec: Spec, plan: Plan, *, chance: bool = False
) -> list[list[recorded.Look]]:
    """Runs of the spec's seeds; the voter agrees with itself in `AGREEMENT` of the pairs."""
    draw = make_generator(derive(0, "surrogate voter", name=json.dumps(dict(spec))))
    beta = 0.0 if chance else world.voter(plan.rows, AGREEMENT, draw)
    first, prior = spec.get("first", 0), named_features.prior_of(world.named, plan.rows)
    return [
        recorded.run(world, prior, replace(plan, beta=beta), first + i)
        for i in range(spec["seeds"])
    ]


def said_of(look: recorded.Look, named: NamedFeatures) -> tuple[Claim, ...]:
    """What a run says as figures: groups likelier than `SAID`, once the gate is open."""
    return named_features.claims(look.found, named, SAID) if look.log_factor >= GATE else ()


def is_right(claim: Claim, liked: set[tuple[str, bool]], named: NamedFeatures) -> bool:
    """One of the entries that are liked is of the group that is said, in the same sense."""
    group = {named.names[i] for i in named_features.members(named, claim.feature)}
    return any(name in group and more == claim.more for name, more in liked)
