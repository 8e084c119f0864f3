"""Score features: what the shown texts say about the direction in which plus lies.

The regression of rewards on scores is the natural policy gradient (Kakade 2001, A natural policy
gradient, theorem 1: compatible features). So the mean score of the texts shown for plus, less that
of the texts shown for minus, is a regressor of the vote: it turns the luck of the texts along the
coordinates from noise into signal. Any texts will do, older ones and other people's included.

Scores are those of the start. They are the scores everywhere only where log-probabilities are
linear in the coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from szpo.errors import UsageError
from szpo.policies.read_request import VALUES, ReadRequest
from szpo.policies.responder import Respondent
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Comparison, Floats, Prompt

Tokens: TypeAlias = tuple[int, ...]
Encode: TypeAlias = Callable[[Prompt, Answer], tuple[Tokens, Tokens]]
"""A prompt and an answer as tokens."""
Whiten: TypeAlias = Callable[[Sequence[tuple[Tokens, Tokens]]], Floats]
"""Prompts with answers to whitened scores (texts, d)."""


def score_features(comparisons: Sequence[Comparison], encode: Encode, whitened: Whiten) -> Floats:
    """Mean whitened score of the plus texts less that of the minus texts, per comparison.

    What all texts of a comparison share drops out of the difference. A text that is shown several
    times is read once, and rows whose texts are equal are not read at all.

    Args:
        comparisons: Those of a step: every direction with the same number of comparisons.
        encode: The run's tokens of a prompt and an answer.
        whitened: `whitened_scores` of the run.

    Returns:
        (K, N, d), in the order of k and n; in units of z, in which the scores of a score subspace
        have unit covariance at the start.
    """
    ordered = sorted(comparisons, key=lambda c: (c.k, c.n))
    directions = len({c.k for c in ordered})
    number: dict[tuple[Tokens, Tokens], int] = {}
    parts: list[tuple[int, int, float]] = []  # comparison, text, weight
    for i, comparison in enumerate(ordered):
        for row in comparison.rows:
            for answer, sign in ((row.plus, 1.0), (row.minus, -1.0)):
                text = encode(row.prompt, answer)
                if text[1] and not row.identical:  # an empty text has no word to score
                    place = number.setdefault(text, len(number))
                    parts.append((i, place, sign / len(comparison.rows)))
    scores = whitened(list(number))
    found = np.zeros((len(ordered), scores.shape[1]))
    for i, place, weight in parts:
        found[i] += weight * scores[place]
    return found.reshape(directions, -1, scores.shape[1])


def whitened_scores(
    respondent: Respondent,
    subspace: Subspace,
    texts: Sequence[tuple[Tokens, Tokens]],
    *,
    temperature: float,
) -> Floats:
    """Scores in the coordinates z: ∇_z log π(answer | prompt) = Pᵀ ∇_B log π.

    Args:
        respondent: Whoever reads in these coordinates.
        subspace: The run's coordinates z.
        texts: Prompts and answers, as tokens.
        temperature: That of the answers' sampling.

    Returns:
        (texts, d).

    Raises:
        UsageError: The coordinates are all weights, or the temperature is 0.
    """
    if not subspace.basis:
        raise UsageError(
            "scores need coordinates z; with subspace.kind full every weight is a coordinate: "
            "set subspace.kind to score"
        )
    if temperature == 0:
        raise UsageError("temperature 0 has no score; set generation.temperature above 0")
    if not texts:
        return np.zeros((0, subspace.dim))
    basis = np.concatenate([v.reshape(-1, subspace.dim) for v in subspace.basis.values()])
    prompts, answers = zip(*texts, strict=True)
    request = ReadRequest("scores", prompts, answers, start=True, temperature=temperature)
    return np.asarray(respondent.read(request)[VALUES].astype(np.float64) @ basis)
