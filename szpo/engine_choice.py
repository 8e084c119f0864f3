"""Which engine a model gets, the fallback through ``transformers.generate``, the contract's test.

A model's code may do things with positions or shapes that the flat batch does not allow. So the
choice is made by trying: a few tokens through each way, against a plain forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from szpo.deltas import Deltas, Site, attached
from szpo.engines import Engine, Generated, HfEngine, check_rows, padded_logprobs
from szpo.errors import RunError
from szpo.flat import flat_model, staged
from szpo.prefill import Canary, Prompts, plan
from szpo.sampling import Sampling, draw
from szpo.scores import words
from szpo.types import Floats


class GenerateEngine:
    """``transformers.generate`` with per-row deltas: slower, for models `HfEngine` cannot run."""

    def __init__(
        self,
        model: Any,
        sites: tuple[Site, ...] = (),
        *,
        stop_tokens: Sequence[int] = (),
        max_rows: int = 32,
    ):
        self.model = model
        self.sites = sites
        self.stop_tokens = tuple(stop_tokens)
        self.max_rows = max_rows

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        *,
        canary: bool = False,
    ) -> Generated:
        """See `szpo.engines.Engine.generate`; at most ``max_rows`` rows go through together.

        ``transformers.generate`` holds tens of megabytes a row for a large vocabulary.
        """
        check_rows(prompts, members, deltas, sampling, uniforms)
        watch = Canary() if canary else None
        tokens: list[tuple[int, ...]] = []
        # Rows of one prompt stay together, so that the canary sees its members side by side.
        order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))
        for begin in range(0, len(order), self.max_rows):
            rows = order[begin : begin + self.max_rows]
            tokens += self._part(
                [prompts[row] for row in rows], [members[row] for row in rows], deltas, sampling,
                uniforms[rows], watch, begin,
            )  # fmt: skip
        if watch is not None:
            watch.judge()
        placed: list[tuple[int, ...]] = [()] * len(prompts)
        for row, made in zip(order, tokens, strict=True):
            placed[row] = made
        return Generated(tuple(placed), tuple(row[-1] in self.stop_tokens for row in placed))

    def _part(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        watch: Canary | None,
        begin: int,
    ) -> list[tuple[int, ...]]:
        device = self.model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            seen[row, width - len(prompt) :] = 1
        layout = plan(prompts, members)
        chooser = _Chooser(torch.from_numpy(uniforms).to(device), width, sampling)
        owner = torch.tensor(list(members), device=device)[:, None]
        with torch.inference_mode(), attached(self.model, self.sites, deltas, owner):
            out = self.model.generate(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=list(self.stop_tokens) or None,
                pad_token_id=self.stop_tokens[0] if self.stop_tokens else 0,
                logits_processor=LogitsProcessorList([chooser]),
            )
        if watch is not None and chooser.first is not None:
            row_of = dict(zip(layout.unit_of_row, layout.order, strict=True))
            units = [(begin + sequence, member) for sequence, member in layout.units]
            watch.see(units, chooser.first[[row_of[u] for u in range(len(units))]])
        tokens = []
        for row in out[:, width:].tolist():
            end = next((i for i, token in enumerate(row) if token in self.stop_tokens), None)
            tokens.append(tuple(row if end is None else row[: end + 1]))
        return tokens

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        *,
        temperature: float = 1.0,
    ) -> list[Floats]:
        """See `szpo.engines.Engine.logprobs`."""
        return padded_logprobs(
            self.model, self.sites, prompts, completions, members, deltas, temperature
        )


class _Chooser(LogitsProcessor):
    """Draws the word itself and leaves ``generate`` no other choice."""

    def __init__(self, uniforms: Tensor, width: int, sampling: Sampling):
        self.first: Tensor | None = None
        self._uniforms, self._width, self._sampling = uniforms, width, sampling

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        t = input_ids.shape[1] - self._width
        if t == 0:
            self.first = scores.clone()
        new = draw(scores, self._uniforms[:, t], self._sampling)
        return torch.full_like(scores, float("-inf")).scatter(1, new[:, None], 0.0)


def engine_for(
    model: Any, sites: tuple[Site, ...] = (), *, stop_tokens: Sequence[int] = ()
) -> Engine:
    """`HfEngine` where its logits agree with the model's own forward pass, else `GenerateEngine`.

    Takes a few small forward passes.
    """
    engine = HfEngine(model, sites, stop_tokens=stop_tokens)
    try:
        agrees = _agrees(engine)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, RunError):
        agrees = False
    return engine if agrees else GenerateEngine(model, sites, stop_tokens=stop_tokens)


def _agrees(engine: HfEngine) -> bool:
    """Prefill and one decoding step give the logits of a plain pass, for two small members."""
    model, sites = engine.model, engine.sites
    count = words(model)
    prompts = [tuple((7 * i + 3 * n) % count for i in range(n)) for n in (3, 9, 14)]
    prompts += [(*prompts[-1][:12], (1 + i) % count) for i in range(2)]
    generator = torch.Generator().manual_seed(0)
    deltas = None
    if sites:
        A = {s.name: torch.randn(s.rank, s.inputs, generator=generator) / s.inputs for s in sites}
        B = {s.name: torch.randn(2, s.outputs, s.rank, generator=generator) for s in sites}
        deltas = Deltas(
            {name: a.to(model.device) for name, a in A.items()},
            {name: b.to(model.device) for name, b in B.items()},
        )
    members = [i % 2 if sites else 0 for i in range(2 * len(prompts))]
    rows = [prompt for prompt in prompts for _ in range(2)]
    layout = plan(rows, members)
    with torch.inference_mode():
        with flat_model(model):
            batch = Prompts(model, sites, deltas, layout, engine.max_tokens)
            cache, first = batch.fill(range(len(rows)), 1, None)
            owner = torch.tensor([layout.member(row) for row in range(len(rows))])
            new = torch.full((len(rows),), 5 % count, device=model.device)
            with staged(cache), attached(model, sites, deltas, owner[None]):
                second = model(
                    input_ids=new[None], position_ids=cache.lengths[None], use_cache=False
                ).logits[0]
        for row, place in enumerate(layout.order):
            ids = torch.tensor([[*rows[place], 5 % count]], device=model.device)
            with attached(model, sites, deltas, torch.tensor([[members[place]]])):
                plain = model(input_ids=ids, use_cache=False).logits[0, -2:].to(torch.float32)
            mine = torch.stack([first[row], second[row]]).to(torch.float32)
            # In bf16, and more so over 4-bit weights, the order of sums shows; a wrong position or
            # mask is off by about the whole norm.
            tolerance = 1e-3 if model.dtype == torch.float32 else 0.2
            if not float((mine - plain).norm()) <= tolerance * float(plain.norm()):
                return False
    return True


def check_engine(
    make: Callable[[], Engine], sites: tuple[Site, ...], words: int, *, exact: bool = True
) -> None:
    """Raise RunError naming the clause of `szpo.engines.Engine` that an engine breaks.

    Args:
        make: Builds the engine, over a model of ``words`` words.
        sites: What the model's deltas adapt; at least one.
        words: Size of the vocabulary.
        exact: The engine computes in fp32, so that rows must not depend on their batch at all.
    """
    engine, again = make(), make()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, words, n).tolist() for n in (1, 4, 9, 4)] * 2
    members = [0] * 4 + [1] * 4
    sampling = Sampling(max_new_tokens=6)
    draws = np.tile(rng.random((4, 6)), (2, 1))
    generator = torch.Generator().manual_seed(0)
    A = {s.name: torch.randn(s.rank, s.inputs, generator=generator) for s in sites}
    B = {s.name: torch.randn(2, s.outputs, s.rank, generator=generator) for s in sites}
    deltas = Deltas(A, B)

    def need(holds: bool, clause: str) -> None:
        if not holds:
            raise RunError(f"engine {type(engine).__name__}: {clause}")

    whole = engine.generate(prompts, members, deltas, sampling, draws, canary=True)
    need(
        len(whole.tokens) == len(whole.ended) == len(prompts)
        and all(1 <= len(row) <= 6 for row in whole.tokens),
        "a row has no tokens, or more than max_new_tokens",
    )
    need(
        whole == again.generate(prompts, members, deltas, sampling, draws, canary=True),
        "the same call gives other tokens the second time",
    )
    need(whole.tokens[:4] != whole.tokens[4:], "two different members say the same")
    if exact:
        back = list(reversed(range(len(prompts))))
        turned = engine.generate(
            [prompts[i] for i in back], [members[i] for i in back], deltas, sampling, draws[back]
        )
        need(
            turned.tokens == tuple(whole.tokens[i] for i in back),
            "rows depend on their order in the batch",
        )
        for i in (1, 6):
            one = Deltas(A, {name: b[members[i] : members[i] + 1] for name, b in B.items()})
            alone = engine.generate([prompts[i]], [0], one, sampling, draws[i : i + 1])
            need(alone.tokens[0] == whole.tokens[i], "a row depends on what else is in the batch")
        zero = Deltas(A, {name: torch.zeros_like(b) for name, b in B.items()})
        need(
            engine.generate(prompts, members, zero, sampling, draws)
            == engine.generate(prompts, [0] * 8, None, sampling, draws),
            "members with B = 0 are not the base model",
        )
    else:
        zero = Deltas(A, {name: torch.zeros_like(b) for name, b in B.items()})
    try:
        engine.generate(prompts, members, zero, sampling, draws, canary=True)
    except RunError:
        pass
    else:
        need(False, "equal members pass the canary")
    logp = engine.logprobs(prompts, whole.tokens, members, deltas)
    need(
        all(
            values.shape == (len(row),) and bool((values <= 0).all())
            for values, row in zip(logp, whole.tokens, strict=True)
        ),
        "logprobs are not one number at most 0 per completion token",
    )
