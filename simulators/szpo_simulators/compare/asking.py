"""A simulated panel as whoever the gradient methods ask: one member, one vote, taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from szpo import seeds
from szpo.counting import verdict
from szpo.types import Answer, Batch, Comparison, Prompt, Row, Verdict
from szpo_simulators.panels import Panel


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
        rows = zip(prompts, first, second, strict=True)
        return _votes(self.of_pairs, [(Row(*row),) for row in rows], key)

    def batches(
        self,
        prompts: Sequence[Sequence[Prompt]],
        first: Sequence[Batch],
        second: Sequence[Batch],
        *,
        key: bytes,
    ) -> Sequence[Verdict]:
        """One vote on each pair of batches."""
        asked = [
            tuple(Row(*row) for row in zip(*batch, strict=True))
            for batch in zip(prompts, first, second, strict=True)
        ]
        return _votes(self.of_batches, asked, key)


def _votes(panel: Panel, asked: Sequence[tuple[Row, ...]], key: bytes) -> list[Verdict]:
    found: list[Verdict] = []
    for n, rows in enumerate(asked):
        own = seeds.derive(0, "asked", k=n, name=key.hex())
        lap, member = divmod(n, len(panel.judges))
        # Of an even number of members, each would else see plus on one side throughout.
        side = "AB"[(n + lap * (len(panel.judges) % 2 == 0)) % 2]
        choice = panel.judges[member].judge(
            Comparison(own.hex(), 0, 0, n, rows),
            panelist=f"panel-{member}",
            plus_side="A" if side == "A" else "B",
            key=own,
        )
        found.append(verdict(choice, side))
    return found
