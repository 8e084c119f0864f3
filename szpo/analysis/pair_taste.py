"""The taste of chosen and rejected answers that somebody has already, fitted as a run's verdicts.

Each pair is a verdict for its chosen answer. Features, groups and scales are read from the pairs'
own answers, two to a prompt, as a run reads them from its start's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from szpo.analysis import in_words, run_taste, taught_taste
from szpo.analysis.in_words import InWords
from szpo.analysis.run_taste import Shown
from szpo.data.preference_formats import Pair
from szpo.errors import RunError, UsageError
from szpo.features import dictionary, differences
from szpo.models import states
from szpo.models.loading import Loaded
from szpo.optim import named_features
from szpo.optim.joint_fit import fit_joint
from szpo.optim.regression import Findings
from szpo.optim.state_regression import GRID, StateScale
from szpo.optim.vote_regression import Votes
from szpo.runs import start_features
from szpo.taste import Taste
from szpo.types import FEATURE_GRID, Answer, Comparison, Ints, Row
from szpo.voting import shown_features, shown_states

FEWEST: Final = 8
MOST: Final = 4096
"""A fit of n pairs takes n³ operations: some minutes here."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A taste of pairs, and the answers that its direction likes most and least."""

    taste: Taste
    words: InWords | None
    """None: named features stand alone."""
    most: tuple[Shown, ...]
    least: tuple[Shown, ...]


def fit_pairs(pairs: Sequence[Pair], model: Loaded, layer: int | None = None) -> Fitted:
    """The taste of pairs, on named features and on a model's hidden states.

    Args:
        pairs: See `differing`.
        model: The model whose hidden states are read; the taste is of this one.
        layer: How many of its layers stand below the states; None: the usual one.

    Raises:
        UsageError: too few or too many pairs, texts without any difference, or one that is longer
            than the model reads.
        RunError: the pairs show no taste.
    """
    rows = differing(pairs)
    shown = [Comparison(str(i), 0, 0, i, (row,)) for i, row in enumerate(rows)]
    entries = {each.name: each for each in dictionary.holding([row.prompt.text for row in rows])}
    texts = [(row.prompt.text, side.text) for row in rows for side in (row.plus, row.minus)]
    values = differences.values(texts, [*entries.values()]).reshape(len(rows), 2, -1)
    named = start_features.read(values, [*entries], start_features.shipped_scales())
    entries = {name: entries[name] for name in named.names}
    rounded, scale = _read_states(shown, model, layer)
    named = replace(named, states=scale)
    x = shown_features.differences_of(named, shown, entries)[0] / FEATURE_GRID
    apart = shown_states.differences_of(shown, rounded)[0]
    won = np.ones(len(rows))
    joint = fit_joint(Votes(x, won, 0 * won), named_features.prior_of(named, 1), apart)
    said = named_features.claims(joint.named, named, kept=joint.kept)
    found = Findings(
        joint.log_factor, taught=said,
        unnamed=joint.kept * joint.named.dense + joint.signal * joint.share,
        chance=1 - joint.signal,
    )  # fmt: skip
    if not found.shown:
        raise RunError(f"{len(rows)} pairs show no taste {taught_taste.describe_unshown(found)}")
    features, explanations = run_taste.explain(named, joint, shown, entries)

    def along(w: Ints) -> list[int]:
        return np.rint(rounded.astype(np.int64) @ w / GRID).astype(np.int64).tolist()  # type: ignore[no-any-return]

    way, explanations = run_taste.with_direction(
        (model.sha256, model.name), named, joint, along, features, explanations
    )
    liked = Taste(
        features, explanations, run_taste.likely_claims(found), named.dictionary,
        verdicts=len(rows), direction=way,
    )  # fmt: skip
    if way is None:
        return Fitted(liked, None, (), ())
    values_of = along(np.array(way.weights, dtype=np.int64))
    read = zip(values_of, shown_states.shown_of(shown), strict=True)
    assert joint.states is not None
    told = apart @ joint.states.w
    words = in_words.explain(x, told, run_taste.prompts_of(shown), named)
    return Fitted(liked, words, *run_taste.ends([Shown(v, p.text, text) for v, (p, text) in read]))


def differing(pairs: Sequence[Pair]) -> list[Row]:
    """The pairs whose answers differ, each once: a copy is no further verdict.

    Raises:
        UsageError: they are fewer than `FEWEST` or more than `MOST`.
    """
    rows = {
        (each.prompt, each.chosen.text, each.rejected.text): Row(
            each.prompt, each.chosen, each.rejected
        )
        for each in pairs
    }
    found = [row for row in rows.values() if not row.identical]
    if not FEWEST <= len(found) <= MOST:
        raise UsageError(
            f"{len(found)} pairs whose answers differ; a taste takes {FEWEST} to {MOST:,}"
        )
    return found


def _read_states(
    pairs: Sequence[Comparison], model: Loaded, layer: int | None
) -> tuple[NDArray[np.int16], StateScale]:
    """Rounded states of the texts in the order of `shown_states.shown_of`, and their scale."""
    layer = states.usual_layer(len(states.layers_of(model.model))) if layer is None else layer
    texts = [(prompt, Answer(text)) for prompt, text in shown_states.shown_of(pairs)]
    found = states.of_texts(model, texts, layer)
    place = {(prompt, answer.text): i for i, (prompt, answer) in enumerate(texts)}
    both = [
        [found[place[row.prompt, side.text]] for side in (row.plus, row.minus)]
        for each in pairs
        for row in each.rows
    ]
    scale = start_features.scale_by(np.array(both), layer)
    if scale is None:
        raise UsageError("the model's hidden states do not differ between the answers of a pair")
    return scale.rounded(found), scale
