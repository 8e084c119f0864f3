"""`szpo bench surrogate`: how often votes show a taste, on recorded answers in place of a model.

The world of recorded answers (`Recorded`) replaces the policy, so that a run takes a second.
*Classes*: what do runs gain by each of twenty tastes, and how many name something? *Chance*: how
many do so if votes are random?

These answers differ from those from which the coordinates were made. The world has no guards, and
a policy's log-probability is linear in its coordinates there, unlike a real policy's.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.progress import track
from scipy import special, stats

from szpo.config.settings_file import load
from szpo.data import prompts as promptfiles
from szpo.errors import UsageError
from szpo.features import dictionary, differences
from szpo.files import replace_whole
from szpo.metrics import wilson
from szpo.optim import informative, named_features, parameters, sample_directions
from szpo.optim.informative import NOISE
from szpo.optim.named_features import Claim, NamedFeatures
from szpo.optim.parameters import Space
from szpo.optim.sparse_prior import SparsePrior
from szpo.optim.sparse_regression import SparseFit, fit_sparse
from szpo.optim.vote_regression import Fit, Prior, Votes, fit
from szpo.seeds import derive, generator
from szpo.types import FEATURE_GRID, Answer, Floats, Grid, Ints, Prompt
from szpo_simulators.bench_study import Study, bench
from szpo_simulators.cell_records import Spec
from szpo_simulators.panels import panel, tastes, text_rewards

if TYPE_CHECKING:
    from szpo.policies.lora_policy import LoraPolicy


ROWS, PAIRS = 8, 8
"""Prompts per comparison, comparisons per step."""
GATE: Final = math.log(9.0)
"""Log Bayes factor from which a run leaves the start."""
RADIUS, STEP = 1.8, 1.2
"""Half the distance between the sides of a pair, and the centre's largest move, in |z|."""
BUDGET: Final = 3.0
"""Largest KL of the recommended point, nats."""
VOTES: Final = 120
CHANCE, COMPARED = 200, 40
"""Runs of random votes, and runs on each taste."""
PROMPTS, EACH = 40, 32
"""Training prompts, and recorded answers to each."""
SEED: Final = 90_000
"""Seed of the recorded answers."""
AT_ONCE: Final = 4
"""Prompts whose answers are drawn and scored together."""
SAID: Final = 0.5
"""A run claims a group of features if its probability exceeds this."""
SELDOM_KL: Final = 0.2
"""KL of a recommended point, nats, that runs of random votes should exceed seldom."""


def prepare_model(
    sets: Sequence[str], say: Callable[[str], None]
) -> tuple[LoraPolicy, NamedFeatures, tuple[Prompt, ...]]:
    """The policy at its start, the features in its coordinates, and the training prompts.

    ``sets``: changes to the default settings.
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


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """N answers with k features, ordered by prompt, of a policy with d coordinates."""

    prompts: Ints
    """(N,): index of each answer's prompt, from 0."""
    features: Floats
    """(N, k): features in units of their spread within prompts."""
    scores: Floats
    """(N, d): slope of the log-probability in each coordinate; a move by z costs |z|²/2 nats."""
    named: NamedFeatures
    reward: Floats
    """(N,): reward of each answer."""

    def draw(self, moves: Floats, rows: int, rng: np.random.Generator) -> Ints:
        """Indices (B, rows) of answers of policies moved by z (B, ≤ d), to the same prompts."""
        chosen = rng.choice(self.prompts[-1] + 1, rows, replace=False)
        found = []
        for first, end in zip(
            np.searchsorted(self.prompts, chosen),
            np.searchsorted(self.prompts, chosen + 1),
            strict=True,
        ):
            tilt = moves @ self.scores[first:end, : moves.shape[1]].T
            found.append(first + (tilt + rng.gumbel(size=tilt.shape)).argmax(-1))
        return np.stack(found, axis=-1)

    def regressors(self) -> Floats:
        """Regressors (N, p) of votes: features and leading scores."""
        return np.concatenate([self.features, self.scores[:, : self.named.components]], axis=1)

    def mean_gain(self, z: Floats) -> float:
        """Gain in mean reward from a move by z (≤ d,), in spreads of the reward within prompts."""
        from szpo.policies import basis

        reward = basis.centre(self.reward[:, None], self.prompts)[:, 0]
        tilt = self.scores[:, : len(z)] @ z
        weight = np.exp(tilt - tilt.max())
        shares = weight / np.bincount(self.prompts, weight)[self.prompts]
        return float(shares @ reward / (self.prompts[-1] + 1) / reward.std())

    def voter(self, rows: int, rng: np.random.Generator) -> float:
        """β at which two votes agree as those of ``bt70`` do, on the start's batches."""
        still = np.zeros((2, self.scores.shape[1]))
        shown = np.array([self.draw(still, rows, rng) for _ in range(1000)])
        gap = np.diff(self.reward[shown].mean(2), axis=1)
        return panel.fit_beta(gap[gap != 0])


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """The state of a run after a step."""

    votes: int
    log_factor: float
    """Largest log Bayes factor so far."""
    fit: Fit
    """Fit of the gradient, in the run's coordinates."""
    found: SparseFit | None
    """Fit of the features; None for a run on scores alone."""


def run(
    world: Recorded, prior: SparsePrior | None, root_seed: int, *, beta: float, votes: int
) -> list[Look]:
    """One run with a fit after each step; prior None: on the leading scores alone.

    The voter prefers plus with probability σ(``beta`` times the difference of mean rewards).
    """
    rng = np.random.default_rng(root_seed)
    dim = world.named.components if prior is None else world.scores.shape[1]
    space = Space(root_seed, (("z", (dim,)),), sample_directions.Law("orthonormal"))
    cast, looks = Votes.empty(dim if prior is None else world.named.columns), list[Look]()
    centre, largest, regressors = np.zeros(dim), -math.inf, world.regressors()
    while len(cast.x) < votes:
        if looks:
            way = recommend(looks[-1]) - centre
            centre = centre + way * min(1.0, STEP / max(float(np.linalg.norm(way)), 1e-9))
        v = _ask(world, space, looks)
        moves = centre + RADIUS * np.stack([v, -v], axis=1)
        shown = np.array([world.draw(pair, ROWS, rng) for pair in moves])
        x = moves if prior is None else regressors[shown].mean(2)
        reward = world.reward[shown].mean(2)
        chance = special.expit(beta * (reward[:, 0] - reward[:, 1]))
        up = (rng.random(PAIRS) < chance).astype(float)
        cast = Votes(
            np.concatenate([cast.x, x[:, 0] - x[:, 1]]),
            np.append(cast.up, up),
            np.append(cast.down, 1 - up),
        )
        found = None if prior is None else fit_sparse(cast, prior)
        gradient = (
            fit(cast, Prior.blocks(dim))
            if found is None
            else named_features.in_coordinates(found, world.named)
        )
        largest = max(largest, float(gradient.log_factor))
        looks.append(Look(len(cast.x), largest, gradient, found))
    return looks


def recommend(look: Look) -> Floats:
    """The recommended point (d,): along w, as far as certainty and the gate allow."""
    found = look.fit
    square = float(found.w @ found.w)
    certain = square / (square + float(np.trace(found.covariance)))
    length = math.sqrt(2 * 0.9 * BUDGET * math.sqrt(certain))
    if look.log_factor < GATE:
        length = min(length, 0.5)
    return np.asarray(found.w * (length / max(math.sqrt(square), 1e-9)))


def _ask(world: Recorded, space: Space, looks: Sequence[Look]) -> Floats:
    """The directions (pairs, d) of the step after these, each of length 1."""
    each, step = range(PAIRS), len(looks)
    grids = list[Grid | None]([None] * PAIRS)
    if (
        looks
        and looks[-1].found is not None
        and (ways := informative.explanations_of(looks[-1].found, world.named))
    ):
        grids = [
            informative.draw_direction(space, world.named, ways, NOISE, step, k) for k in each
        ]
    v = np.array([parameters.direction_vector(space, step, k, grids[k]) for k in each])
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))


@bench("surrogate")
def main(study: Study) -> dict[str, list[dict[str, Any]]]:
    """What votes on recorded answers of the default model gain and name, and what chance does."""
    few = 20 if study.quick else 1
    world, prompts, answers = draw_answers(study)
    specs: list[Spec] = [
        {"class": kind, "taste": name, "seeds": COMPARED // few}
        for name, (kind, _) in [*tastes.TASTES.items()][:: 5 if study.quick else 1]  # one a class
    ]
    rewards = {
        spec["taste"]: text_rewards.scores(
            text_rewards.parse(f"taste:{spec['taste']}"), prompts, answers
        )
        for spec in specs
    }
    tables = {
        "classes": study.cells("classes", specs, partial(compare_coordinates, world, rewards))
    }
    specs = [{"chance": True, "seeds": CHANCE // few}]
    tables["chance"] = study.cells("chance votes", specs, partial(count_chance, world))
    for part, rows in tables.items():
        study.table(part, rows, {head: head for head in rows[0]}, part)
    study.end()
    return tables


def draw_answers(study: Study) -> tuple[Recorded, list[Prompt], list[Answer]]:
    """Load the start's answers from the study's folder, or draw `EACH` to each prompt.

    Returns:
        The world of the answers with rewards 0; the prompt of each answer; the answers.
    """
    sets = ["model.device=cpu", "model.dtype=fp32"]
    policy, named, train = prepare_model(sets, study.console.print)
    order = generator(derive(SEED, "surrogate prompts")).permutation(len(train))
    prompts = tuple(train[i] for i in order[: 8 if study.quick else PROMPTS])
    file = study.folder / f"answers-{len(prompts)}.npz"
    if not file.exists():
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
        answers, scores_of = [Answer(text) for text in stored["texts"].tolist()], stored["scores"]
    asked_of = [prompt for prompt in prompts for _ in range(EACH)]
    entries = [dictionary.BY_NAME[name] for name in named.names]
    pairs = ((p.text, a.text) for p, a in zip(asked_of, answers, strict=True))
    values = differences.values(pairs, entries)
    features = values * FEATURE_GRID / np.array(named.scales)
    of = np.repeat(np.arange(len(prompts)), EACH)
    world = Recorded(of, features, scores_of, named, np.zeros(len(of)))
    return world, asked_of, answers


def compare_coordinates(
    world: Recorded, rewards: Mapping[str, Floats], spec: Spec
) -> dict[str, float | str]:
    """Gains of a taste's runs on named features and on leading scores alone, and their claims."""
    liked = replace(world, reward=rewards[spec["taste"]])
    runs = {
        "features": run_all(liked, spec),
        "scores": run_all(liked, spec, on_scores=True),
    }
    gains = dict[str, Floats]()
    for kind, every in runs.items():
        for at in (40, VOTES):
            looks = [look for each in every for look in each if look.votes == at]
            gained = [liked.mean_gain(recommend(look)) for look in looks]
            gains[f"{kind} {at}"] = np.array(gained)
    row: dict[str, float | str] = {name: float(each.mean()) for name, each in gains.items()}
    ahead = gains["features 120"] - gains["scores 120"]
    row |= {"ahead": float(ahead.mean()), "±": 1.96 * float(stats.sem(ahead))}
    said = [claim for each in runs["features"] for claim in said_of(each[-1], liked.named)[:1]]
    named = Counter(("more " if claim.more else "less ") + claim.feature for claim in said)
    words = ", ".join(f"{name} ({count})" for name, count in named.most_common(2))
    return row | {"said": len(said), "mostly": words}


def count_chance(world: Recorded, spec: Spec) -> dict[str, float]:
    """How many runs of random votes open the gate, claim a group, or go beyond `SELDOM_KL`."""
    looks = run_all(world, spec, chance=True)
    opened = sum(each[-1].log_factor >= GATE for each in looks)
    said = sum(any(said_of(look, world.named) for look in each) for each in looks)
    nats = [[(recommend(look) ** 2).sum() / 2 for look in run] for run in looks]
    low, high = wilson(opened, len(looks))
    return {
        "opened": opened, "runs": len(looks), "low": low, "high": high, "said": said,
        "far": int(np.sum(np.max(nats, axis=1) > SELDOM_KL)),
    }  # fmt: skip


def run_all(
    world: Recorded, spec: Spec, *, chance: bool = False, on_scores: bool = False
) -> list[list[Look]]:
    """The spec's runs, one per seed; two votes on a pair agree in 70 %."""
    draw = generator(derive(0, "surrogate voter", name=json.dumps(dict(spec))))
    beta = 0.0 if chance else world.voter(ROWS, draw)
    prior = None if on_scores else named_features.prior_of(world.named, ROWS)
    return [run(world, prior, seed, beta=beta, votes=VOTES) for seed in range(spec["seeds"])]


def said_of(look: Look, named: NamedFeatures) -> tuple[Claim, ...]:
    """A run's claims: groups with a probability above `SAID`, once the gate is open."""
    if look.found is None or look.log_factor < GATE:
        return ()
    return named_features.claims(look.found, named, SAID)
