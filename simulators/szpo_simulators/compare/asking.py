"""A simulated panel as whoever the gradient methods ask: one member, one vote, taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from szpo import seeds
from szpo.baselines.asking import in_turn, rows_of
from szpo.types import Answer, Batch, Prompt, Row, Verdict
from szpo_simulators.panels.panel import Panel


@dataclass(frozen=True)
class PanelAsk:
    """Asks panels fitted to the size of the question: one for batches, one for single pairs.

    Members answer in turn and see plus on either side equally often, as in a run of szpo.
    """

    of_batches: Panel
    of_pairs: Panel

    def pairs(
        self,
        prompts: Sequence[Prompt],
        first: Sequence[Answer],
        second: Sequence[Answer],
        *,
        key: bytes,
    ) -> Sequence[Verdict]:
        """One vote on each pair of answers."""
        asked = rows_of([(p,) for p in prompts], [(a,) for a in first], [(b,) for b in second])
        return _votes(self.of_pairs, asked, key)

    def batches(
        self,
        prompts: Sequence[Sequence[Prompt]],
        first: Sequence[Batch],
        second: Sequence[Batch],
        *,
        key: bytes,
    ) -> Sequence[Verdict]:
        """One vote on each pair of batches."""
        return _votes(self.of_batches, rows_of(prompts, first, second), key)


def _votes(panel: Panel, asked: Sequence[tuple[Row, ...]], key: bytes) -> list[Verdict]:
    keys = [seeds.derive(0, "asked", k=n, name=key.hex()) for n in range(len(asked))]

    def side(n: int) -> str:
        lap = n // len(panel.judges)
        # Of an even number of members, each would else see plus on one side throughout.
        return "AB"[(n + lap * (len(panel.judges) % 2 == 0)) % 2]

    return in_turn(panel.judges, asked, keys, side)
