"""The rule `bayes`: a posterior on the local gradient from the votes of recent steps.

The model and its fit are `szpo.optim.posterior`'s: P(plus) = σ(xᵀw + u) with x = z⁺ − z⁻. The
step is ℓ·ŵ/√(|ŵ|² + tr P): its full length where the votes say much, short where they say little.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from szpo.aggregation import registry, weighting
from szpo.aggregation.weighting import History
from szpo.errors import RunError
from szpo.optim import posterior
from szpo.optim.posterior import Posterior, Window
from szpo.optim.rules.rule import Move, Perturbations, Rule
from szpo.optim.settings import ADAM_NEEDS, Schedule, Settings, SettingsError
from szpo.optim.step_size import base_mu, longest
from szpo.optim.weighted_votes import Past, WeightedVotes
from szpo.types import Floats

LARGEST_DIM = 256
"""Coordinates up to which a posterior is fitted."""


def check(settings: Settings) -> None:
    """Refuse what the model does not have.

    Raises:
        SettingsError: several tensors or too many coordinates, another link than the logistic,
            momentum, Adam, a step size, or a prior that is none.
    """
    s, dim = settings, settings.dim
    if s.adam is not None:
        raise SettingsError(ADAM_NEEDS)
    if len(s.layout) != 1 or dim > LARGEST_DIM:
        raise SettingsError(f"bayes needs one tensor of at most {LARGEST_DIM} coordinates")
    if s.link != "logistic":
        raise SettingsError("bayes knows the logistic link only; choose another `rule`")
    if s.momentum > 0:
        raise SettingsError("bayes keeps past votes itself; set `momentum` = 0")
    if s.alpha is not None and not (isinstance(s.alpha, Schedule) and s.alpha.start is None):
        raise SettingsError("bayes takes its step from kl_step; `alpha` may be a shape only")
    check_prior(s)


def check_prior(settings: Settings) -> None:
    """Refuse a Gaussian prior that is none in these coordinates.

    Raises:
        SettingsError: names the setting.
    """
    s, dim = settings, settings.dim
    if s.prior_mean is not None and len(s.prior_mean) != dim:
        raise SettingsError(f"`prior_mean` has {len(s.prior_mean)} of {dim} values")
    if s.prior_mean is not None and not all(map(math.isfinite, s.prior_mean)):
        raise SettingsError(f"`prior_mean` {s.prior_mean} is not finite")
    rows = s.prior_precision
    if rows is None:
        return
    if len(rows) != dim or any(len(row) != dim for row in rows):
        raise SettingsError(f"`prior_precision` must be {dim} by {dim}")
    matrix = np.asarray(rows, dtype=np.float64)
    if not (np.isfinite(matrix).all() and np.allclose(matrix, matrix.T, rtol=1e-9, atol=0)):
        raise SettingsError("`prior_precision` must be finite and symmetric")
    if np.linalg.eigvalsh(matrix)[0] <= 0:
        raise SettingsError("`prior_precision` must be positive definite")


def init(settings: Settings, lead: tuple[int, ...] = ()) -> Window:
    """An empty window."""
    return Window.empty(settings.dim, settings.N, lead)


def move(
    settings: Settings,
    window: Window,
    at: Perturbations,
    votes: WeightedVotes,
    nu: float | None = None,
) -> Move:
    """Add the step's votes to the window, fit the posterior, and step along its mean."""
    window = add_votes(settings, window, at, votes)
    found = gradient(settings, window, at.step)
    vector = posterior.step_vector(found, longest(settings, at.step))
    return Move(window, vector=vector, posterior=found)


def add_votes(
    settings: Settings, window: Window, at: Perturbations, votes: WeightedVotes
) -> Window:
    """The window with a step's votes, all of them under today's weights of voters."""
    x = at.features(settings.distance)  # x = z⁺ − z⁻
    window = posterior.add(window, at.step, x, votes.tally, forget=settings.forget)
    if settings.weighting in registry.LEARNED and votes.history is not None:
        window = reweigh(window, votes.history, votes.weights)
    return window


def gradient(settings: Settings, window: Window, step: int) -> Posterior:
    """The posterior on the gradient that a window gives at a step, under the settings' prior.

    Axes of the window before its rows may lead.
    """
    precision: ArrayLike = posterior.prior_precision(
        base_mu(settings), settings.distance, settings.dim
    )
    if settings.prior_precision is not None:
        precision = settings.prior_precision
    return posterior.posterior(
        window, precision=precision, mean=settings.prior_mean, forget=settings.forget, step=step
    )


def reweigh(window: Window, history: History, weights: Floats) -> Window:
    """The window with today's weights on all its votes: voters are known better than they were.

    Axes before those of `VotesByVoter` may lead. The history reaches back as far as the window.
    """
    verdicts = history.verdicts[..., history.verdicts.shape[-2] - len(window.steps) :, :]
    plus, minus, tie = weighting.sum_votes(verdicts, weights)
    every, ties = weighting.squares(verdicts, weights)
    return Window(window.steps, window.x, plus + tie / 2, minus + tie / 2, ties, every)


def figures(done: Move) -> dict[str, float]:
    """Sizes of the gradient, its uncertainty, the noise between comparisons, and the step.

    Raises:
        RunError: the move is not one of this rule.
    """
    found, vector = done.posterior, done.vector
    if found is None or vector is None:
        raise RunError("figures: not a move of the rule bayes")
    return {
        "gradient": float(np.linalg.norm(found.w)),
        "uncertainty": math.sqrt(float(np.trace(found.covariance))),
        "comparison_noise": float(found.s),
        "length": float(np.linalg.norm(vector)),
    }


def flip_share_of_move(
    settings: Settings,
    done: Move,
    at: Perturbations,
    votes: WeightedVotes,
    nu: float | None = None,
) -> float | None:
    """`flip_share` of a step; None where its votes came without their voters."""
    if done.posterior is None or votes.by_voter is None or votes.history is None:
        return None
    return flip_share(done.carried, done.posterior, votes.history, votes.weights, settings.forget)


def flip_share(
    window: Window, fitted: Posterior, history: History, weights: Floats, forget: float
) -> float:
    """Smallest share of the window's voters who could have turned the step round: ŵ·δ < 0.

    To first order: a vote with feature x that goes to the other side moves ŵ by its weight times
    λ^age · P x, whatever the posterior thinks of it, and half of that for a tie. Voters are
    switched in all their votes of the window, those who move most first.
    """
    rows = min(len(window.steps), len(history.steps))
    if not rows:
        return 0.0
    x, steps = window.x[-rows:], window.steps[-rows:]
    verdicts = history.verdicts[:, -rows:]
    pull = x @ fitted.covariance @ fitted.w
    age = forget ** (float(steps[-1]) - steps.astype(np.float64))
    for_it = np.sign(pull)[None, :, None] * np.where(weights < 0, -1.0, 1.0)[:, None, None]
    moved = np.where(verdicts == weighting.TIE, 0.5, (verdicts == for_it) & (verdicts != 0)).sum(
        -1
    )
    moves = np.abs(weights) * (moved * age * np.abs(pull)).sum(-1)
    lead = float(fitted.w @ fitted.w)
    voters = (verdicts != 0).any((-2, -1))
    return weighting.share_to_pass(moves[voters], lead) if lead > 0 else 0.0


def posterior_so_far(
    settings: Settings, window: Window, at: Perturbations, votes: WeightedVotes
) -> tuple[Posterior, float]:
    """The posterior with a step's votes so far, and the length of a step that is sure."""
    window = add_votes(settings, window, at, votes)
    return gradient(settings, window, at.step), longest(settings, at.step)


RULE = Rule(
    name="bayes",
    check=check,
    init=init,
    alpha=lambda settings, window, step: None,
    past=lambda settings, window: Past(len(window.steps) + settings.K),
    move=move,
    figures=figures,
    flip_share=flip_share_of_move,
    is_exact=lambda settings: False,
    known=posterior_so_far,
    bayesian=True,
)
