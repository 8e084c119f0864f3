"""Variational preference learning: pairs of users, small models, training and use of the latent.

Texts become features by hashing words and pairs of words (`hash_words`). This needs no model,
gives the same bits on every machine, and keeps a decisive word visible; the hidden state of a
small model reflects little but its own corpus. Any other array (n, e) of features works as well.

Four small torch models: one with a latent taste for each user, three without.

A user's context is n pairs (a preferred, b not). ``vae``: an encoder reads the context into
q(z | C) = N(m, e^ℓ), a decoder gives r(x, z), and P(x_w over x_l | z) = σ(r(x_w, z) − r(x_l, z)).
``base``: r(x) alone. ``mean_and_variance``: r(x) ~ N(m, s²). ``categorical``: r(x) has a
distribution over `ATOMS` ordered atoms. The last two are from distributional preference learning
(Siththaranjan, Laidlaw and Hadfield-Menell, 2024) and serve as baselines.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from szpo import seeds
from szpo.errors import UsageError
from szpo.metrics import Share, share, words
from szpo.types import Floats, Ints

WIDTH = 256

Kind: TypeAlias = Literal["vae", "base", "mean_and_variance", "categorical"]
KINDS: tuple[Kind, ...] = ("vae", "base", "mean_and_variance", "categorical")
ATOMS = 10
SLOPE = 0.2
SPREAD = 0.1
"""Weight of the negative entropy, which keeps ``categorical`` from using only a few atoms."""
ACTIVE = 0.01
"""A unit is active if its mean varies more than this over contexts (Burda et al., 2016)."""
SAMPLES = 512
"""Most pairs, each with a context, on which the use of the latent is tested."""


@dataclass(frozen=True)
class Pairs:
    """n preference pairs as features."""

    chosen: Floats
    """(n, e): features of the chosen texts."""
    rejected: Floats
    user: Ints
    """(n,): each pair's user, 0 … users − 1."""
    controversial: NDArray[np.bool_]
    """(n,): whether users disagree about the pair."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Ints | NDArray[np.bool_]) -> Pairs:
        """The pairs selected by an index or a mask."""
        return Pairs(
            self.chosen[index], self.rejected[index], self.user[index], self.controversial[index]
        )


@lru_cache(maxsize=65_536)
def hash_words(text: str, width: int = WIDTH) -> tuple[float, ...]:
    """A vector of norm 1 with a hashed place and sign for each word and pair of words.

    This is the hashing trick of Weinberger et al. (2009).

    >>> round(sum(x * x for x in hash_words("The sea is calm.")), 9)
    1.0
    """
    found = words(text)
    grams = [*found, *(" ".join(pair) for pair in pairwise(found))]
    row = np.zeros(width)
    for gram in grams:
        code = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
        row[(code >> 1) % width] += 1 if code & 1 else -1
    size = float(np.linalg.norm(row))
    return tuple((row / size if size else row).tolist())


def hash_votes(votes: Sequence[tuple[str, str, str, bool]]) -> Pairs:
    """Pairs with features by `hash_words` from (user, chosen, rejected, controversial) of texts.

    Users are numbered in the order of their names.
    """
    users, chosen, rejected, controversial = zip(*votes, strict=True)
    return Pairs(
        np.array([hash_words(text) for text in chosen]),
        np.array([hash_words(text) for text in rejected]),
        np.unique(users, return_inverse=True)[1],
        np.array(controversial),
    )


def contexts(known: Pairs, users: Ints, size: Ints, u: Floats, skip: Ints | None = None) -> Ints:
    """Indices (b, n) of pairs in ``known`` drawn as contexts of users (b,); −1 is padding.

    ``size`` (b,) pairs are drawn with replacement by uniform numbers ``u`` (b, n), and not the
    pair to be predicted, whose index is in ``skip`` (b,).
    """
    order = np.argsort(known.user, kind="stable")
    count = np.bincount(known.user, minlength=int(users.max(initial=0)) + 1)
    first = np.r_[0, np.cumsum(count)[:-1]]
    room = count[users] - (skip is not None)
    if (room < 1).any():
        raise UsageError("a user has a single pair; give each user two or more")
    place = (u * room[:, None]).astype(np.int64)
    if skip is not None:
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        place += place >= (rank[skip] - first[users])[:, None]
    rows = order[first[users][:, None] + place]
    return np.where(np.arange(u.shape[1]) < size[:, None], rows, -1)


class Encoder(nn.Module):
    """From a context to a mean and a log-variance (b, latent), both in [−1, 1]."""

    def __init__(self, inputs: int, hidden: int = 64, latent: int = 8):
        super().__init__()
        self.pair = mlp(2 * inputs, hidden, hidden)
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.mean, self.log_variance = (nn.Linear(hidden, latent) for _ in range(2))

    def forward(self, preferred: Tensor, other: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Single-head self-attention over the pairs, then their mean.

        Texts (b, n, e) are of up to n pairs of each of b users; ``there`` (b, n): which exist.
        """
        pairs = self.pair(torch.cat([preferred, other], dim=-1))
        scores = self.query(pairs) @ self.key(pairs).transpose(-1, -2) / math.sqrt(pairs.shape[-1])
        scores = scores.masked_fill(~there[:, None, :], -torch.inf)
        seen = scores.softmax(-1) @ self.value(pairs)
        weights = there.to(seen.dtype) / there.sum(-1, keepdim=True)
        pooled = (seen * weights[..., None]).sum(-2)
        return self.mean(pooled).clamp(-1, 1), self.log_variance(pooled).clamp(-1, 1)


class Model(nn.Module):
    """A model of one of the four kinds; `margin` ranks two texts, `loss` is minimised."""

    def __init__(self, kind: Kind, inputs: int, hidden: int = 64, latent: int = 8):
        super().__init__()
        self.kind = kind
        outputs = {"mean_and_variance": 2, "categorical": ATOMS}.get(kind, 1)
        self.encoder = Encoder(inputs, hidden, latent) if kind == "vae" else None
        self.decoder = mlp(inputs + (latent if kind == "vae" else 0), hidden, outputs)
        self.centre: Tensor
        self.scale: Tensor
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))

    def standardise(self, texts: Tensor) -> None:
        """Standardise all later features by the mean and deviation of ``texts`` (n, e)."""
        self.centre = texts.mean(0)
        deviation = texts.std(0)
        self.scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def posterior(self, preferred: Tensor, other: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (b, latent) of the users' latents; for ``vae`` only."""
        if self.encoder is None:
            raise ValueError(f"{self.kind} has no encoder")
        read = self._read(preferred), self._read(other)
        found: tuple[Tensor, Tensor] = self.encoder(*read, there)
        return found

    def _read(self, x: Tensor) -> Tensor:
        read: Tensor = (x - self.centre) / self.scale
        return read

    def margin(self, one: Tensor, other: Tensor, z: Tensor | None) -> Tensor:
        """Margins (b,) of ``one`` over ``other``: logits, or P − ½ for ``categorical``."""
        a, b = self._out(one, z), self._out(other, z)
        if self.kind == "mean_and_variance":
            return probit_logit(a, b)
        if self.kind == "categorical":
            return beats(a, b) - 0.5
        return (a - b).squeeze(-1)

    def loss(self, one: Tensor, other: Tensor, z: Tensor | None) -> Tensor:
        """Mean negative log-likelihood of preferring ``one``, nats; see also `SPREAD`."""
        if self.kind == "categorical":
            a, b = self._out(one, z), self._out(other, z)
            used = torch.cat([a, b]).softmax(-1).mean(0)
            negative_entropy: Tensor = torch.special.xlogy(used, used).sum()
            unlikely: Tensor = -beats(a, b).clamp_min(1e-9).log().mean()
            return unlikely + SPREAD * negative_entropy
        surprise: Tensor = functional.softplus(-self.margin(one, other, z)).mean()
        return surprise

    def _out(self, x: Tensor, z: Tensor | None) -> Tensor:
        read = self._read(x)
        out: Tensor = self.decoder(read if z is None else torch.cat([read, z], dim=-1))
        return out


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with leaky rectifiers."""
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, hidden), nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def probit_logit(a: Tensor, b: Tensor) -> Tensor:
    """√(2π)·(m_a − m_b)/√(s_a² + s_b²), s = softplus(raw): a logit with Φ's slope at 0.

    The texts ``a`` and ``b`` are means and raw deviations (b, 2).
    """
    deviation = (functional.softplus(a[..., 1]) ** 2 + functional.softplus(b[..., 1]) ** 2).sqrt()
    logit: Tensor = math.sqrt(2 * math.pi) * (a[..., 0] - b[..., 0]) / deviation
    return logit


def beats(a: Tensor, b: Tensor) -> Tensor:
    """P(atom of a > atom of b) + ½ P(equal atoms), for independent draws from two softmaxes.

    >>> beats(torch.zeros(1, 4), torch.zeros(1, 4)).item()
    0.5
    """
    p, q = a.softmax(-1), b.softmax(-1)
    below = q.cumsum(-1) - q / 2
    return (p * below).sum(-1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, e^ℓ) ‖ N(0, 1)) of each unit, nats: −½(1 + ℓ − m² − e^ℓ).

    >>> divergence(torch.tensor([1.0]), torch.tensor([0.0])).item()
    0.5
    """
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp())


def draw(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Z = m + e^{ℓ/2}·ε, scaled to norm √L as in the published training."""
    z = mean + (log_variance / 2).exp() * noise
    return math.sqrt(z.shape[-1]) * functional.normalize(z, dim=-1)


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


def margins(fitted: Fitted, pairs: Pairs, *, size: int = 8) -> Floats:
    """Margins (n,) of the chosen over the rejected texts, given contexts of their users.

    A context is ``size`` pairs of the user, without the pair itself.
    """
    model = fitted.model
    with torch.no_grad():
        z = None
        if fitted.recipe.kind == "vae":
            # One number more than is read, as when the contexts of other users were drawn too.
            u = seeds.uniform(
                seeds.derive(fitted.seed, "vpl contexts", name=""), len(pairs) * (size + 1)
            )
            u = u.reshape(len(pairs), size + 1)[:, :-1]
            rows = contexts(pairs, pairs.user, np.full(len(pairs), size), u, np.arange(len(pairs)))
            z, _ = model.posterior(*_context(rows, _tensor(pairs.chosen), _tensor(pairs.rejected)))
        out = model.margin(_tensor(pairs.chosen), _tensor(pairs.rejected), z)
    return out.double().numpy()


def scores(fitted: Fitted, pairs: Pairs, *, size: int = 8) -> tuple[Share, Share]:
    """Shares of all and of controversial pairs whose preferred text is ranked first.

    Given ``size`` other pairs of the same user; equal margins count half.
    """
    found = margins(fitted, pairs, size=size)
    right = np.where(found == 0, 0.5, found > 0)
    chosen = pairs.controversial
    every = share(float(right.sum()), len(right))
    return every, share(float(right[chosen].sum()), int(chosen.sum()))


def latent(fitted: Fitted, pairs: Pairs, *, size: int = 8) -> dict[str, Any]:
    """Whether a ``vae`` uses its latent, tested on up to `SAMPLES` pairs and contexts.

    ``active``: number of units, see `ACTIVE`; ``kl``: mean KL of a posterior to the prior, nats;
    ``collapsed``: no unit is active, so the posterior does not depend on contexts.
    """
    if fitted.recipe.kind != "vae":
        raise UsageError(f"{fitted.recipe.kind} has no latent")
    key = seeds.derive(fitted.seed, "vpl latent")
    some = pairs.take(seeds.permutation(key, len(pairs))[:SAMPLES])
    u = seeds.uniform(seeds.derive(fitted.seed, "vpl latent contexts"), len(some) * size)
    rows = contexts(pairs, some.user, np.full(len(some), size), u.reshape(-1, size))
    with torch.no_grad():
        context = _context(rows, _tensor(pairs.chosen), _tensor(pairs.rejected))
        found = fitted.model.posterior(*context)
        kl = float(divergence(*found).sum(-1).mean())
        active = int((found[0].var(0) > ACTIVE).sum())
    return {"active": active, "kl": kl, "collapsed": active == 0}


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
