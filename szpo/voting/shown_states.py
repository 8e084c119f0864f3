"""Hidden states of the shown texts: read behind a sheet, rounded, recorded, read back.

Each text of a step is read once, after its own prompt. The record has whole numbers
(`StateScale.rounded`) in the step's event "regressors", so that replay, verify and withdrawals
work without the model, as with named features.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from szpo.errors import IntegrityError, UsageError
from szpo.optim.state_regression import GRID, StateScale
from szpo.types import Answer, Comparison, Floats, Prompt


def shown_of(comparisons: Sequence[Comparison]) -> list[tuple[Prompt, str]]:
    """The different pairs of prompt and answer in rows that differ, in order."""
    rows = [row for each in comparisons for row in each.rows if not row.identical]
    pairs = [(row.prompt, side.text) for row in rows for side in (row.plus, row.minus)]
    return list(dict.fromkeys(pairs))


def read_of(
    policy: object, comparisons: Sequence[Comparison], scale: StateScale
) -> NDArray[np.int16]:
    """The rounded states (texts, width) of what a step shows, in the order of `shown_of`.

    Raises:
        UsageError: the policy has no hidden states, or others than the run's.
    """
    read = getattr(policy, "mean_states", None)
    if read is None:
        raise UsageError(
            "the run fits hidden states of its model, which this policy does not have; set "
            "features.layer to 0"
        )
    pairs = shown_of(comparisons)
    prompts, answers = [each for each, _ in pairs], [Answer(text) for _, text in pairs]
    found = np.asarray(read(prompts, answers, scale.layer)) if pairs else np.zeros((0, 0))
    if pairs and (found.shape != (len(pairs), scale.width) or not np.isfinite(found).all()):
        raise UsageError(
            f"the model's states have shape {found.shape[1:]}, the run's {(scale.width,)}, or are "
            "not finite; go on with the model that began it"
        )
    return scale.rounded(found.reshape(len(pairs), scale.width))


def differences_of(comparisons: Sequence[Comparison], rounded: NDArray[np.int16]) -> Floats:
    """Mean states of plus's texts less minus's of each comparison (K, N, width), exact.

    Rows with equal texts count as 0. The order is that of k and n.
    """
    place = {pair: i for i, pair in enumerate(shown_of(comparisons))}
    ordered = sorted(comparisons, key=lambda each: (each.k, each.n))
    found = np.zeros((len(ordered), rounded.shape[1]))
    for i, each in enumerate(ordered):
        for row in each.rows:
            if not row.identical:
                plus, minus = (
                    rounded[place[row.prompt, side.text]].astype(np.int64)
                    for side in (row.plus, row.minus)
                )
                found[i] += plus - minus
        found[i] /= GRID * len(each.rows)
    return found.reshape(len({each.k for each in ordered}), -1, rounded.shape[1])


def packed(rounded: NDArray[np.int16]) -> str:
    """Rounded states as text for the record."""
    return base64.b64encode(zlib.compress(rounded.astype("<i2").tobytes(), 6)).decode("ascii")


def unpacked(text: object, texts: int, width: int) -> NDArray[np.int16]:
    """Read the output of `packed` for so many texts.

    Raises:
        IntegrityError: it is no such output.
    """
    size = 2 * texts * width
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(base64.b64decode(str(text), validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise IntegrityError(f"the recorded states cannot be read ({error})") from None
    if len(raw) != size:
        raise IntegrityError(f"the recorded states are not those of {texts} texts")
    return np.frombuffer(raw, "<i2").astype(np.int16).reshape(texts, width)
