"""`szpo bench subspaces`: which few coordinates of an adapter explain most of a reward?

First the shares, which cost no votes: fresh answers of the base model give score vectors, and the
share ρ² of a coordinate is the squared correlation of its score with a reward, within prompts. A
vote's information about a direction is proportional to ρ²/d. Then, on demand, the gain per vote of
whole runs. Every part is stored as soon as it exists and not computed again.

The estimate is cross-fitted: the two halves of each prompt's answers give two correlations whose
errors are independent, and their product has mean ρ² (0 under the null, not 1/n).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from szpo import seeds
from szpo.data import prompts
from szpo.generation.sampling import Sampling
from szpo.models import loading, scores
from szpo.models.loading import Loaded
from szpo.optim import directions
from szpo.optim.directions import Law
from szpo.optim.parameters import Space
from szpo.policies import subspace_cache, subspace_setup
from szpo.policies.probe import Probe
from szpo.policies.responder import LocalHost
from szpo.policies.subspaces import SetupSettings, Subspace
from szpo.types import Answer, Floats, Ints, Prompt
from szpo_simulators import study
from szpo_simulators.bench.language import demo
from szpo_simulators.rewards import heldout, text_rewards

KINDS = ("full", "random", "score")
REWARDS = ("sentiment", "length:12", "keyword:the,sun,day,light")
CHUNK = 256
FULL_DIRECTIONS = 64
"""Random directions that stand for ``full``, whose coordinates are too many to show."""
SPLITS = 10
RESAMPLES = 400


@dataclass(frozen=True)
class Share:
    """Share ρ² of the reward's variance within prompts that one coordinate explains."""

    mean: float
    """Over the subspace's coordinates."""
    low: float
    high: float
    """95 % bootstrap interval of the mean, over prompts."""
    null: float
    """97.5 % quantile of the mean when rewards are shuffled within prompts."""
    coordinates: int

    @property
    def total(self) -> float:
        """Sum over the coordinates: what a linear step within the subspace can explain."""
        return self.mean * self.coordinates


def estimate_share(
    coordinates: Floats, reward: Floats, groups: Ints, *, seed: int = 0, resamples: int = RESAMPLES
) -> Share:
    """Mean ρ² of coordinates' scores (n, d) with a reward (n,), within ``groups`` (n,).

    >>> rng = np.random.default_rng(0)
    >>> s, g = rng.normal(size=(8000, 2)), np.repeat(np.arange(100), 80)
    >>> r = 0.3 * s[:, 0] + rng.normal(size=8000) + g      # ρ² = .09/1.09 and 0
    >>> found = estimate_share(s, r, g, resamples=50)
    >>> round(found.mean, 3), found.low < 0.0413 < found.high, found.null < 0.002
    (0.039, True, True)
    """
    rng = study.make_generator(seeds.derive(seed, "bench subspaces"))
    ranks = np.unique(groups, return_inverse=True)[1]
    count = int(ranks.max()) + 1
    splits = [_split(ranks, rng) for _ in range(SPLITS)]
    whole = np.ones((1, count))
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    mean = float(np.mean([_products(coordinates, reward, s, count, whole) for s in splits]))
    spread = np.mean([_products(coordinates, reward, s, count, draws) for s in splits], axis=0)
    low, high = np.quantile(spread.mean(1), (0.025, 0.975))
    null = [
        float(_products(coordinates, _shuffle(reward, ranks, rng), splits[i % SPLITS], count,
                        whole).mean())
        for i in range(resamples)
    ]  # fmt: skip
    return Share(
        mean, float(low), float(high), float(np.quantile(null, 0.975)), coordinates.shape[1]
    )


def effective_dim(scores: Floats) -> float:
    """Effective dimension (tr F)²/tr F² of the Fisher matrix of scores (n, D).

    tr F² is the mean of (sᵢ·sⱼ)² over pairs of different samples, so noise does not raise it.

    >>> round(effective_dim(np.random.default_rng(0).normal(size=(2000, 5))), 1)
    5.0
    """
    gram = scores @ scores.T
    own = np.diag(gram)
    pairs = (float((gram**2).sum()) - float((own**2).sum())) / (len(own) * (len(own) - 1))
    return float(own.mean() ** 2 / pairs)


def _split(ranks: Ints, rng: np.random.Generator) -> Ints:
    """Cell of each sample: 2·group + half, halves drawn at random within the group."""
    order = np.lexsort((rng.random(len(ranks)), ranks))
    first = np.searchsorted(ranks[order], ranks[order])
    half = np.empty(len(ranks), np.int64)
    half[order] = (np.arange(len(ranks)) - first) % 2
    return np.asarray(2 * ranks + half)


def _shuffle(reward: Floats, ranks: Ints, rng: np.random.Generator) -> Floats:
    order = np.lexsort((rng.random(len(ranks)), ranks))
    back = np.argsort(ranks, kind="stable")
    mixed = np.empty_like(reward)
    mixed[back] = reward[order]
    return mixed


def _products(
    coordinates: Floats, reward: Floats, cells: Ints, count: int, weights: Floats
) -> Floats:
    """ρ̂_first · ρ̂_second per weighting of the groups, (weightings, d)."""
    s, r = _centre(coordinates, cells), _centre(reward[:, None], cells)
    sums = [np.zeros((2 * count, x.shape[1])) for x in (s, s, r)]
    for total, values in zip(sums, (s * r, s * s, r * r), strict=True):
        np.add.at(total, cells, values)
    both, own, liked = ((weights @ x[0::2], weights @ x[1::2]) for x in sums)
    found = [
        b / np.sqrt(np.maximum(o * v, 1e-300)) for b, o, v in zip(both, own, liked, strict=True)
    ]
    return np.asarray(found[0] * found[1])


def _centre(values: Floats, cells: Ints) -> Floats:
    count = np.bincount(cells).clip(min=1)
    sums = np.zeros((len(count), values.shape[1]))
    np.add.at(sums, cells, values)
    return np.asarray(values - (sums / count[:, None])[cells])


# --- fresh answers and their scores --------------------------------------------------------------


@dataclass(frozen=True)
class Fresh:
    """Answers of the base model that no set-up used: scores (n, D), texts, prompt of each."""

    scores: NDArray[np.float16]
    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    groups: Ints


def draw_fresh(
    loaded: Loaded, subspace: Subspace, pool: Sequence[Prompt], count: int, folder: Path, say: Any
) -> Fresh:
    """Draw ``count`` answers with their score vectors, in chunks stored in ``folder``."""
    start = {**subspace.fixed, **subspace.start}
    ids = tuple(loading.encode(loaded.tokenizer, p) for p in pool)
    whole = replace(subspace, kind="full", basis={})
    respondent = LocalHost(loaded).at(whole, Space(0, whole.layout, Law()))
    stop = set(loading.stop_tokens(loaded))
    parts = []
    for index in range(-(-count // CHUNK)):
        path = folder / f"scores-{index:03d}.npz"
        if not path.exists():
            key = seeds.branch_seed(0, index, "bench subspaces")
            probe = Probe(respondent, whole, ids, Sampling(), key)
            groups = [(index * CHUNK + i) % len(ids) for i in range(CHUNK)]
            drawn = probe.samples((), [0] * CHUNK, groups, "fresh")
            vectors = scores.score_vectors(loaded.adapt(subspace.sites), start, drawn)
            rows = [[t for t in sample.answer if t not in stop] for sample in drawn]
            texts = loaded.tokenizer.batch_decode(rows, skip_special_tokens=True)
            draft = path.with_suffix(".draft.npz")
            np.savez(
                draft, scores=vectors.astype(np.float16), texts=np.array(texts),
                groups=np.array(groups), tokens=np.array([len(r) for r in rows]),
            )  # fmt: skip
            draft.rename(path)
            say(f"answers and scores: {(index + 1) * CHUNK} of {count}")
        with np.load(path) as chunk:
            parts.append({name: chunk[name] for name in chunk.files})
    join = {name: np.concatenate([p[name] for p in parts])[:count] for name in parts[0]}
    return Fresh(
        join["scores"], tuple(map(str, join["texts"])), tuple(map(int, join["tokens"])),
        join["groups"],
    )  # fmt: skip


def projection(subspace: Subspace) -> Floats:
    """The coordinates as columns over all weights (D, d); for ``full`` some random ones."""
    if subspace.basis:
        parts = [value.reshape(-1, value.shape[-1]) for value in subspace.basis.values()]
        return np.concatenate(parts).astype(np.float64)
    key = seeds.derive(0, "bench subspaces", name="full")
    draws = directions.gaussian(key, subspace.dim * FULL_DIRECTIONS).astype(np.float64)
    return draws.reshape(subspace.dim, FULL_DIRECTIONS)


@dataclass(frozen=True)
class Sizes:
    """How much is set up and measured."""

    dim: int
    """Coordinates of the subspaces."""
    samples: int
    """Answers of the set-up."""
    answers: int
    """Fresh answers on which shares are measured."""


def load_or_build(
    loaded: Loaded, pool: Sequence[Prompt], sizes: Sizes, folder: Path, seed: int
) -> dict[str, Subspace]:
    """The three kinds over the same weights, with the same A, d and KL radius."""
    dim, samples = sizes.dim, sizes.samples
    names = {kind: folder / f"space-{kind}-d{dim}-n{samples}-{seed}.npz" for kind in KINDS}
    if not names["score"].exists():
        subspace_cache.write(
            subspace_setup.set_up_subspace(
                loaded, pool, SetupSettings("score", dim, samples=samples, root_seed=seed)
            ),
            names["score"],
        )
    score = subspace_cache.read(names["score"])
    start = {**score.fixed, **score.start}
    for kind in ("random", "full"):
        if not names[kind].exists():
            subspace_cache.write(
                subspace_setup.set_up_subspace(
                    loaded, pool, SetupSettings(kind, dim, root_seed=seed), start=start
                ),
                names[kind],
            )
    return {kind: subspace_cache.read(path) for kind, path in names.items()}


# --- the command ---------------------------------------------------------------------------------


def main(
    model: str = "smollm2",
    answers: int = 4096,
    dim: int = 8,
    samples: int = 384,
    reward: Sequence[str] = REWARDS,
    folder: Path = Path("runs/bench-subspaces"),
    gains: bool = False,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Shares of three rewards' variance by kind of subspace; with --gains whole runs as well."""
    console = study.make_console()
    own = folder / model.replace("/", "-")
    own.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "shares": _measure_shares(model, Sizes(dim, samples, answers), reward, own, console)
    }
    if gains:
        result["gains"] = _measure_gains(reward, seeds, own / "gains", dim, sets, console)
    (own / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _measure_shares(
    model: str, sizes: Sizes, rewards: Sequence[str], folder: Path, console: Console
) -> list[dict[str, Any]]:
    loaded = loading.load(model)
    pool = prompts.load_shipped().train
    spaces = load_or_build(loaded, pool, sizes, folder, 0)
    seen = draw_fresh(loaded, spaces["score"], pool, sizes.answers, folder, console.print)
    vectors = seen.scores.astype(np.float64)
    texts = [Answer(t, tokens=n) for t, n in zip(seen.texts, seen.tokens, strict=True)]
    rows = []
    table = Table(title=f"share ρ² of a reward's variance per coordinate, {len(texts)} answers")
    for head in ("reward", "kind", "d", "d′", "mean ρ²", "95 %", "null", "sum ρ²", "ρ²/d′ · 1000"):
        table.add_column(head, justify="right")
    effective = {
        kind: effective_dim(vectors if kind == "full" else vectors @ projection(spaces[kind]))
        for kind in KINDS
    }
    for spec in rewards:
        liked = text_rewards.parse(spec)
        values = text_rewards.scores(liked, [pool[g] for g in seen.groups], texts)
        for kind in KINDS:
            share = estimate_share(vectors @ projection(spaces[kind]), values, seen.groups)
            d, equal = spaces[kind].dim, effective[kind]
            rows.append(
                {
                    "reward": spec,
                    "kind": kind,
                    "dim": d,
                    "effective_dim": equal,
                    "mean": share.mean,
                    "interval": [share.low, share.high],
                    "null": share.null,
                    "per_vote": share.mean / equal,
                    "reward_mean": float(values.mean()),
                    "reward_sd": float(values.std()),
                }
            )
            table.add_row(
                spec, kind, f"{d}", f"{equal:.1f}", f"{share.mean:.4f}",
                f"{share.low:.4f} … {share.high:.4f}", f"{share.null:.4f}",
                "" if kind == "full" else f"{share.total:.3f}", f"{1000 * share.mean / equal:.3f}",
            )  # fmt: skip
    console.print(table)
    console.print(
        "full: mean over random directions; d′: (tr F)²/tr F², the effective dimension; "
        "a vote's information is proportional to ρ²/d′"
    )
    return rows


def _measure_gains(
    rewards: Sequence[str], seeds: Sequence[int], folder: Path, dim: int, sets: Sequence[str],
    console: Console,
) -> list[dict[str, Any]]:  # fmt: skip
    table = Table(title=f"held-out gain, {len(seeds)} seeds, same votes and KL radius")
    for head in ("reward", "kind", "gain", "95 % over seeds", "votes", "gain per 100 votes", "KL"):
        table.add_column(head, justify="right")
    rows = []
    for spec in rewards:
        for kind in KINDS:
            changes = [f"subspace.kind={kind}", f"subspace.dim={dim}", *sets]
            runs = [
                demo.run_seed(s, demo.SeedRuns(folder, spec, changes, tag=kind), console.print)
                for s in seeds
            ]
            mean, low, high = heldout.student([run["gain"] for run in runs])
            votes = float(np.mean([run["votes"] for run in runs]))
            kl = float(np.mean([run["kl"][0] for run in runs]))
            rows.append(
                {"reward": spec, "kind": kind, "gain": mean, "interval": [low, high],
                 "votes": votes, "kl": kl, "gains": [run["gain"] for run in runs]}
            )  # fmt: skip
            table.add_row(
                spec, kind, f"{mean:+.3f}", f"{low:+.3f} … {high:+.3f}", f"{votes:.0f}",
                f"{100 * mean / max(votes, 1):+.3f}", f"{kl:.1f}",
            )  # fmt: skip
    console.print(table)
    return rows
