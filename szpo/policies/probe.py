"""Measure a run's starting policy during set-up: its answers, and the KL of members to it.

Votes and rewards are not used. All random numbers are derived from the set-up's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from szpo import seeds
from szpo.generation.sampling import Sampling
from szpo.models.logprobs import Sample
from szpo.policies.backend import Backend, start_of
from szpo.policies.requests import KL, AnswerRequest, Inputs, Moves, Scores, Tokens
from szpo.policies.subspaces import Subspace
from szpo.types import Floats, Theta

ROWS = 96
"""Answers generated at once; more take memory for keys and values, and gain little."""
Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Probe:
    """A model at its starting policy, with the prompts and the sampling of a set-up's passes."""

    backend: Backend
    """Answers in the coordinates of ``whole``."""
    whole: Subspace
    """All moving weights at the starting policy."""
    prompts: tuple[tuple[int, ...], ...]
    """As tokens."""
    sampling: Sampling
    root_seed: int
    progress: Progress = lambda what, done, of: None
    at_once: int = ROWS
    """Answers asked for at once; workers get more, and cut them into their own chunks."""

    def samples(
        self,
        members: Sequence[Theta],
        owner: Sequence[int],
        groups: Sequence[int],
        name: str,
        report_drawn: Callable[[int], None] = lambda count: None,
    ) -> list[Sample]:
        """Draw answers of the members ``owner`` to the prompts ``groups``, row by row.

        ``members`` are moving weights; without any, the start answers. ``name`` seeds the random
        numbers. ``report_drawn`` is called with the number of answers so far.
        """
        every = [(g, m, 0, i) for i, (g, m) in enumerate(zip(groups, owner, strict=True))]
        key = seeds.derive(self.root_seed, "setup", name=name)
        thetas = tuple(members) or (start_of(self.whole),)
        tokens: list[tuple[int, ...]] = []
        for first in range(0, len(every), self.at_once):
            table = np.array(every[first : first + self.at_once], np.int64)
            tokens += self.backend.answer(
                AnswerRequest(
                    {}, (), self.prompts, (key,), table, self.sampling,
                    base=not members, thetas=thetas,
                )
            )  # fmt: skip
            report_drawn(len(tokens))
        return [
            Sample(self.prompts[g], answer, g) for g, answer in zip(groups, tokens, strict=True)
        ]

    def start_samples(self, count: int, each: int = 1) -> list[Sample]:
        """Draw ``count`` answers of the starting policy, prompts in turn.

        With many prompts, only as many are used as leave at least ``each`` answers to each.
        """
        key = seeds.derive(self.root_seed, "setup", name="prompts")
        order = seeds.permutation(key, len(self.prompts))[: max(1, count // each)]
        groups = [int(order[i % len(order)]) for i in range(count)]
        found: list[Sample] = []
        for first in range(0, count, 256):
            part = groups[first : first + 256]

            def report_drawn(more: int, before: int = first) -> None:
                self.progress("base answers", before + more, count)

            report_drawn(0)
            found += self.samples((), [0] * len(part), part, f"base {first}", report_drawn)
        return found

    def read_inputs(self, samples: Sequence[Sample]) -> Mapping[str, NDArray[Any]]:
        """An A for each site from the layers' inputs while these answers are read."""
        return self.backend.read(Inputs(*_texts(samples)))

    def read_scores(
        self, samples: Sequence[Sample], redraws: int, stage: str = "scores"
    ) -> Iterator[NDArray[np.float32]]:
        """Scores (rows, D) of answers at the start, in blocks; each redraw is a row too.

        ``stage`` names this pass in the progress display.
        """
        heat = self.sampling.temperature
        done, of = 0, len(samples) * (1 + redraws)
        self.progress(stage, 0, of)
        for rows in self.backend.read_scores(
            Scores(*_texts(samples), temperature=heat, redraws=redraws, seed=self.root_seed)
        ):
            yield rows
            done += len(rows)
            self.progress(stage, done, of)

    def read_parts(self, samples: Sequence[Sample], cuts: tuple[int, ...]) -> NDArray[np.float32]:
        """Scores at the start (answers, 1 + cuts, D) of an answer's parts, cut at ``cuts``."""
        request = Scores(*_texts(samples), temperature=self.sampling.temperature, cuts=cuts)
        return self.backend.read(request).reshape(len(samples), 1 + len(cuts), -1)

    def read_moves(self, samples: Sequence[Sample], members: Sequence[Theta]) -> Floats:
        """Scores and Fisher matrices of answers along members (answers, 1 + members, members)."""
        found, done = [], 0
        for first in range(0, len(samples), self.at_once):
            self.progress("moves of the adapters", done, len(samples))
            part = samples[first : first + self.at_once]
            request = Moves(*_texts(part), tuple(members), self.sampling.temperature)
            found.append(self.backend.read(request))
            done += len(part)
        return np.concatenate(found)

    def kl(
        self, members: Sequence[Theta], rows: int, name: str, stage: str = ""
    ) -> NDArray[np.float64]:
        """Measure the KL of each member to the start, prompts in turn.

        ``stage`` names this pass in the progress display, if it is to be shown.

        Returns:
            (members, rows), nats per completion, each from one answer; ``name`` seeds them.
        """
        owner = [m for m in range(len(members)) for _ in range(rows)]
        key = seeds.derive(self.root_seed, "setup", name=f"prompts {name}")
        order = seeds.permutation(key, len(self.prompts))
        groups = [int(order[i % len(order)]) for i in range(len(owner))]

        def report_drawn(count: int) -> None:
            if stage:
                self.progress(stage, count, len(owner))

        answers = self.samples(members, owner, groups, name, report_drawn)
        request = KL(*_texts(answers), tuple(members), tuple(owner), self.sampling.temperature)
        return self.backend.read(request).reshape(len(members), rows)


def _texts(samples: Sequence[Sample]) -> tuple[Tokens, Tokens]:
    return tuple(s.prompt for s in samples), tuple(s.answer for s in samples)
