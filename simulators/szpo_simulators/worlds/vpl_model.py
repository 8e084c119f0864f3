"""Four small torch models: one with a latent taste for each user, three without.

A user's context is n pairs (a preferred, b not). ``vae``: an encoder reads the context into
q(z | C) = N(m, e^ℓ), a decoder gives r(x, z), and P(x_w over x_l | z) = σ(r(x_w, z) − r(x_l, z)).
``base``: r(x) alone. ``mean_and_variance``: r(x) ~ N(m, s²). ``categorical``: r(x) has a
distribution over `ATOMS` ordered atoms. The last two are from distributional preference learning
(Siththaranjan, Laidlaw and Hadfield-Menell, 2024) and serve as baselines.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind: TypeAlias = Literal["vae", "base", "mean_and_variance", "categorical"]
KINDS: tuple[Kind, ...] = ("vae", "base", "mean_and_variance", "categorical")

ATOMS = 10
SLOPE = 0.2
SPREAD = 0.1
"""Weight of the negative entropy, which keeps ``categorical`` from using only a few atoms."""


class Encoder(nn.Module):
    """From a context to a mean and a log-variance (b, latent), both in [−1, 1]."""

    def __init__(self, inputs: int, hidden: int = 64, latent: int = 8):
        super().__init__()
        self.pair = mlp(2 * inputs, hidden, hidden)
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.mean, self.log_variance = (nn.Linear(hidden, latent) for _ in range(2))

    def forward(self, preferred: Tensor, other: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Single-head self-attention over the pairs, then their mean.

        Args:
            preferred: preferred texts of up to n pairs of each of b users, (b, n, e).
            other: the other texts of the same pairs, (b, n, e).
            there: which of the pairs exist, (b, n).
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

    Args:
        a: (b, 2) means and raw deviations.
        b: the same for the other text.
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
