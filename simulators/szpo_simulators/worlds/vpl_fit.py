"""Training by the evidence lower bound, accuracy given a context, and the use of the latent."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from szpo import seeds
from szpo.errors import UsageError
from szpo.intervals import Share, share
from szpo.types import Floats, Ints
from szpo_simulators.worlds.vpl_data import Pairs, contexts
from szpo_simulators.worlds.vpl_model import Kind, Model, divergence, draw

ACTIVE = 0.01
"""A unit is active if its mean varies more than this over contexts (Burda et al., 2016)."""
SAMPLES = 512
"""Most pairs, each with a context, on which the use of the latent is tested."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained."""

    kind: Kind = "vae"
    epochs: int = 15
    rate: float = 1e-3
    batch: int = 64
    beta: float = 1e-3
    """Weight of the KL term once annealed."""
    cycles: int = 2
    """Cycles of the annealing; the weight is ``beta`` in the second half of each."""
    baseline: float = 0.1
    """Share of ``beta`` at which a cycle starts."""
    context: tuple[int, int] = (1, 8)
    """Smallest and largest number of pairs of a context in training."""
    decay: float = 1e-3
    hidden: int = 64
    latent: int = 8


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it was trained."""

    model: Model
    recipe: Recipe
    seed: int


@dataclass(frozen=True, slots=True)
class Latent:
    """Whether a model uses its latent."""

    active: int
    """Number of active units; see `ACTIVE`."""
    units: int
    kl: float
    """Mean KL of a posterior to the prior, nats."""
    own: float
    """Accuracy given contexts of the pairs' own users."""
    others: float
    """Accuracy given contexts of other users."""

    @property
    def collapsed(self) -> bool:
        """Posterior collapse: no unit is active, so the posterior does not depend on contexts."""
        return self.active == 0

    @property
    def ignored(self) -> bool:
        """Whether contexts of other users predict as well, within two standard errors."""
        error = math.sqrt(max(self.own * (1 - self.own), 0.25 / SAMPLES) * 2 / SAMPLES)
        return self.own - self.others < 2 * error


def weight(recipe: Recipe, step: int, steps: int) -> float:
    """The KL term's weight at a step: β times a cosine rise from ``baseline``, in cycles.

    This is the cyclical annealing of Fu et al. (2019): the weight rises in the first half of a
    cycle and is constant in the second.

    >>> recipe = Recipe(beta=1.0, cycles=2, baseline=0.1)
    >>> [round(weight(recipe, step, 80), 3) for step in (0, 10, 20, 39, 40)]
    [0.1, 0.55, 1.0, 1.0, 0.1]
    """
    cycle = steps / recipe.cycles
    rise = min(1.0, 2 * (step % cycle) / cycle)
    return recipe.beta * (
        recipe.baseline + (1 - recipe.baseline) * (1 - math.cos(math.pi * rise)) / 2
    )


def fit(train: Pairs, recipe: Recipe, seed: int) -> Fitted:
    """Train a model; the same arguments give the same model on one machine.

    Raises:
        UsageError: a context is needed but a user has a single pair, or the loss is not finite.
    """
    noise = _torch_generator(seed, "vpl noise")
    rng = seeds.generator(seeds.derive(seed, "vpl batches"))
    model = Model(recipe.kind, train.chosen.shape[1], recipe.hidden, recipe.latent)
    _start(model, _torch_generator(seed, "vpl model"))
    one, other = _tensor(train.chosen), _tensor(train.rejected)
    model.standardise(torch.cat([one, other]))
    adam = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    per_epoch = math.ceil(len(train) / recipe.batch)
    steps, step, loss = recipe.epochs * per_epoch, 0, torch.zeros(())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small gain nothing from threads
    try:
        for _ in range(recipe.epochs):
            for rows in np.array_split(rng.permutation(len(train)), per_epoch):
                z, kl = None, torch.zeros(())
                if recipe.kind == "vae":
                    few, many = recipe.context
                    size = rng.integers(few, many + 1, len(rows))
                    u = rng.random((len(rows), many))
                    known = contexts(train, train.user[rows], size, u, rows)
                    found = model.posterior(*_context(known, one, other))
                    z = draw(*found, torch.randn(found[0].shape, generator=noise))
                    kl = divergence(*found).sum(-1).mean()
                index = torch.from_numpy(rows)
                loss = model.loss(one[index], other[index], z) + weight(recipe, step, steps) * kl
                adam.param_groups[0]["lr"] = (
                    recipe.rate * (1 + math.cos(math.pi * step / steps)) / 2
                )
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                step += 1
    finally:
        torch.set_num_threads(threads)
    if not loss.isfinite():
        raise UsageError("the loss is not finite; check the embeddings, or lower the rate")
    return Fitted(model, recipe, seed)


def margins(
    fitted: Fitted, pairs: Pairs, known: Pairs, *, size: int = 8, own: bool = True, name: str = ""
) -> Floats:
    """Margins (n,) of the chosen over the rejected texts, given contexts of their users.

    Args:
        fitted: the model; without an encoder, contexts are not used.
        pairs: the pairs to rank.
        known: pairs from which contexts are drawn; if it is ``pairs``, each pair is left out of
            its own context.
        size: pairs per context.
        own: False gives every pair the context of another user.
        name: name of the random draw.
    """
    model = fitted.model
    with torch.no_grad():
        z = None
        if fitted.recipe.kind == "vae":
            u = seeds.uniform(
                seeds.derive(fitted.seed, "vpl contexts", name=name), len(pairs) * (size + 1)
            )
            u = u.reshape(len(pairs), size + 1)
            users, skip = pairs.user, np.arange(len(pairs)) if known is pairs else None
            if not own:
                there = np.unique(known.user)
                place = np.searchsorted(there, users)
                users = there[(place + 1 + (u[:, -1] * (len(there) - 1)).astype(int)) % len(there)]
                skip = None
            rows = contexts(known, users, np.full(len(pairs), size), u[:, :-1], skip)
            context = _context(rows, _tensor(known.chosen), _tensor(known.rejected))
            found = model.posterior(*context)
            z = found[0]
        out = model.margin(_tensor(pairs.chosen), _tensor(pairs.rejected), z)
    return out.double().numpy()


def scores(fitted: Fitted, pairs: Pairs, *, size: int = 8) -> tuple[Share, Share]:
    """Shares of all and of controversial pairs whose preferred text is ranked first.

    Given ``size`` other pairs of the same user; equal margins count half.
    """
    found = margins(fitted, pairs, pairs, size=size)
    right = np.where(found == 0, 0.5, found > 0)
    chosen = pairs.controversial
    every = share(float(right.sum()), len(right))
    return every, share(float(right[chosen].sum()), int(chosen.sum()))


def latent(fitted: Fitted, pairs: Pairs, *, size: int = 8) -> Latent:
    """Whether a ``vae`` uses its latent, tested on up to `SAMPLES` pairs and contexts."""
    if fitted.recipe.kind != "vae":
        raise UsageError(f"{fitted.recipe.kind} has no latent")
    if len(np.unique(pairs.user)) < 2:
        raise UsageError("a latent tells users apart; give pairs of two users or more")
    key = seeds.derive(fitted.seed, "vpl latent")
    some = pairs.take(seeds.permutation(key, len(pairs))[:SAMPLES])
    u = seeds.uniform(seeds.derive(fitted.seed, "vpl latent contexts"), len(some) * size)
    rows = contexts(pairs, some.user, np.full(len(some), size), u.reshape(-1, size))
    with torch.no_grad():
        context = _context(rows, _tensor(pairs.chosen), _tensor(pairs.rejected))
        found = fitted.model.posterior(*context)
        kl = float(divergence(*found).sum(-1).mean())
        active = int((found[0].var(0) > ACTIVE).sum())
    right = [
        float((margins(fitted, some, pairs, size=size, own=own, name="used") > 0).mean())
        for own in (True, False)
    ]
    return Latent(active, found[0].shape[1], kl, *right)


def _context(rows: Ints, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of `Model.posterior` for the indices that `contexts` returned."""
    index = torch.from_numpy(np.maximum(rows, 0))
    return one[index], other[index], torch.from_numpy(rows >= 0)


def _start(model: Model, made: torch.Generator) -> None:
    """Initialise linear layers uniformly within ±1/√inputs, from this generator."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=made)
                module.bias.uniform_(-bound, bound, generator=made)


def _tensor(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _torch_generator(seed: int, purpose: str) -> torch.Generator:
    number = int.from_bytes(seeds.derive(seed, purpose)[:7], "little")
    return torch.Generator().manual_seed(number)
