"""The engines, flat batches and ``transformers.generate``; the choice between them, and its test.

A model's code may use positions or shapes in ways that the flat batch does not allow; ``generate``
is slower and runs it. So the choice is made by a trial: a few tokens through the flat batch,
compared with a plain forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from szpo import background_work
from szpo.cache import quiet
from szpo.errors import RunError
from szpo.models.answer_shares import Tokens
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.engine_contract import Engine, check_rows, padded_logprobs
from szpo.models.flat_attention import (
    Canary,
    FlatReading,
    PrefillBatch,
    RowCache,
    attend_with,
    plan_prefill,
    use_flat_attention,
)
from szpo.models.logprobs import (
    FLAT_TOKENS,
    before_head,
    densely,
    logit_slices,
    reads_slices,
    token_logprobs,
    vocabulary_size,
)
from szpo.models.lora import Site
from szpo.models.out_of_memory import retry_halved, split_halved
from szpo.models.sampling import Sampling, draw, place_uniforms
from szpo.types import Floats


@dataclass(eq=False)
class FlatEngine:
    """Batched decoding with a transformers model, all members and rows in one flat batch.

    The same call gives the same tokens on the same machine with the same thread count. Nothing is
    cached between calls, because a resumed run must generate the same as an uninterrupted one.
    """

    adapted: AdaptedModel
    max_rows: int = 256
    """Rows decoded together; bounds memory, and changes no distribution."""
    max_tokens: int = 2048
    """Approximate number of prompt tokens in one forward pass; bounds memory too."""
    halved_rows: int | None = None
    """Rows decoded together since memory ran out; None if it has not."""

    def logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        *,
        temperature: float = 1.0,
    ) -> list[Floats]:
        """See `Engine.logprobs`; what all prompts start with is read once, and nothing padded."""
        model, sites = self.adapted.model, self.adapted.sites
        if not reads_slices(self.adapted):
            return padded_logprobs(
                self, prompts, completions, members, deltas, temperature=temperature
            )
        logprobs: list[Floats] = [np.zeros(0)] * len(prompts)

        def read(part: NDArray[np.int64]) -> NDArray[np.int64]:
            asked, said = ([tuple(rows[i]) for i in part] for rows in (prompts, completions))
            reading = FlatReading(model, asked, said)
            owner = torch.tensor([members[i] for i in part])
            with use_flat_attention(model) as pause:
                begun = reading.begin(sites, deltas)
                for rows in reading.parts(FLAT_TOKENS):
                    pause()
                    each = owner[rows].repeat_interleave(reading.lengths[rows])[None]
                    run = partial(reading.read, rows, begun, owner[rows])
                    with attach_deltas(model, sites, deltas, each):
                        slices = logit_slices(
                            model, reading.places(rows), run, temperature, sliced=True
                        )
                    own = torch.tensor([token for row in rows for token in said[row]])
                    values = token_logprobs(slices, own.to(model.device)).cpu().double()
                    parts = torch.split(values, [reading.spoken[row] for row in rows])
                    for row, few in zip(rows, parts, strict=True):
                        logprobs[part[row]] = few.numpy()
            return part

        spoken = np.array([i for i, said in enumerate(completions) if len(said)], np.int64)
        with torch.inference_mode():
            if len(spoken):
                split_halved(read, spoken)
        return logprobs

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        *,
        canary: bool = False,
    ) -> Tokens:
        """See `Engine.generate`."""
        check_rows(prompts, members, deltas, sampling, uniforms)
        if not prompts:
            return ()

        most = min(self.max_rows, len(prompts))
        layout = plan_prefill(prompts, members)

        def attempt(size: int) -> Tokens:
            if size < most:
                self.max_tokens = max(1, self.max_tokens // 2)
                self.max_rows = self.halved_rows = size
            tokens: list[tuple[int, ...]] = [()] * len(prompts)
            watch = Canary() if canary else None
            with torch.inference_mode(), use_flat_attention(self.adapted.model) as pause:
                batch = PrefillBatch(self.adapted, deltas, layout, self.max_tokens)
                for begin in range(0, len(prompts), self.max_rows):
                    rows = range(begin, min(begin + self.max_rows, len(prompts)))
                    cache, logits = batch.fill(rows, sampling.max_new_tokens, watch, pause)
                    order = [layout.order[row] for row in rows]
                    draws = place_uniforms(uniforms[order], logits.device)
                    owner = torch.tensor([layout.member(r) for r in rows], device=logits.device)
                    made = self._decode(owner, deltas, cache, logits, sampling, draws, pause)
                    for row, new in zip(order, made, strict=True):
                        tokens[row] = new
            if watch is not None:
                watch.judge()
            return tuple(tokens)

        return retry_halved(attempt, most)

    def _decode(
        self,
        members: Tensor,
        deltas: Deltas | None,
        cache: RowCache,
        logits: Tensor,
        sampling: Sampling,
        draws: Tensor,
        pause: Callable[[], None],
    ) -> list[tuple[int, ...]]:
        """Draw tokens and feed them back; finished rows are dropped once they are a quarter."""
        model, device = self.adapted.model, logits.device
        stop = torch.tensor(self.adapted.stop_tokens, dtype=torch.long, device=device)
        made = torch.full((len(members), sampling.max_new_tokens), -1, device=device)
        live = torch.arange(len(members), device=device)
        going = torch.ones(len(members), dtype=torch.bool, device=device)
        with attach_deltas(model, self.adapted.sites, deltas, members[None]) as attachment:
            for t in range(sampling.max_new_tokens):
                pause()
                new = draw(logits, draws[live, t], sampling, self.adapted.wordless)
                made[live, t] = torch.where(going, new, -1)
                going = going & ~torch.isin(new, stop)
                left = int(going.sum())
                if left == 0 or t + 1 == sampling.max_new_tokens:
                    break
                if left <= 0.75 * len(live):
                    rest = going.nonzero()[:, 0]
                    cache.keep(rest)
                    new, live, going = new[rest], live[rest], going[rest]
                    if attachment is not None:
                        attachment.assign(members[live][None])
                with attend_with(cache):
                    logits = model(
                        input_ids=new[None], position_ids=cache.lengths[None], use_cache=False
                    ).logits[0]
                cache.advance()
        return [tuple(token for token in row if token >= 0) for row in made.tolist()]


@dataclass(eq=False)
class GenerateEngine:
    """``transformers.generate`` with LoRA deltas per row."""

    adapted: AdaptedModel
    max_rows: int = 32
    """Rows in one call; with a large vocabulary each row takes tens of megabytes."""
    halved_rows: int | None = None
    """Rows in one call since memory ran out; None if it has not."""

    logprobs = padded_logprobs

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
        *,
        canary: bool = False,
    ) -> Tokens:
        """See `Engine.generate`."""
        check_rows(prompts, members, deltas, sampling, uniforms)

        most = min(self.max_rows, len(prompts))
        # Rows of one prompt stay together, so that the canary sees its members side by side.
        order = sorted(range(len(prompts)), key=lambda row: tuple(prompts[row]))

        def attempt(size: int) -> Tokens:
            if size < most:
                self.max_rows = self.halved_rows = size
            watch = Canary() if canary else None
            tokens: list[tuple[int, ...]] = [()] * len(prompts)
            for begin in range(0, len(order), self.max_rows):
                rows = order[begin : begin + self.max_rows]
                part = [prompts[row] for row in rows]
                owner = [members[row] for row in rows]
                made, first = self._generate_block(part, owner, deltas, sampling, uniforms[rows])
                if watch is not None:
                    _show(watch, part, owner, first, begin)
                for row, new in zip(rows, made, strict=True):
                    tokens[row] = new
            if watch is not None:
                self._compare_across_blocks(prompts, members, deltas, sampling, watch)
                watch.judge()
            return tuple(tokens)

        return retry_halved(attempt, most)

    def _compare_across_blocks(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        watch: Canary,
    ) -> None:
        """Show the canary members of one prompt that fell into different blocks, in one pass."""
        # Logits of two passes may differ by rounding even for equal policies, so a pair
        # must be in one pass. Generates one token each, and only for pairs not yet seen
        # to differ.
        one_token = replace(sampling, max_new_tokens=1)
        answering: dict[tuple[int, ...], set[int]] = {}
        for prompt, member in zip(prompts, members, strict=True):
            answering.setdefault(tuple(prompt), set()).add(member)
        half = max(1, self.max_rows // 2)
        number = len(prompts)  # above all numbers of the blocks' sequences
        for shared, owners in answering.items():
            own = sorted(owners)
            groups = [own[i : i + half] for i in range(0, len(own), half)]
            for one, other in combinations(groups, 2) if len(groups) > 1 else [(own, [])]:
                few = [*one, *other]
                if all(watch.differs(*pair) for pair in combinations(few, 2)):
                    continue
                same = [shared] * len(few)
                uniforms = np.full((len(few), 1), 0.5)
                _, first = self._generate_block(same, few, deltas, one_token, uniforms)
                _show(watch, same, few, first, number)
                number += 1

    def _generate_block(
        self,
        prompts: Sequence[Sequence[int]],
        members: Sequence[int],
        deltas: Deltas | None,
        sampling: Sampling,
        uniforms: Floats,
    ) -> tuple[list[tuple[int, ...]], Tensor]:
        """Each row's new tokens, and the logits after its prompt (rows, words)."""
        model, stop = self.adapted.model, self.adapted.stop_tokens
        device = model.device
        width = max(len(prompt) for prompt in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
            seen[row, width - len(prompt) :] = 1
        draws, never = place_uniforms(uniforms, device), self.adapted.wordless
        chooser = _Chooser(draws, width, sampling, never)
        owner = torch.tensor(list(members), device=device)[:, None]
        with (
            torch.inference_mode(),
            attach_deltas(model, self.adapted.sites, deltas, owner),
            before_head(model, densely),
        ):
            out = model.generate(
                input_ids=ids.to(device),
                attention_mask=seen.to(device),
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=list(stop) or None,
                pad_token_id=stop[0] if stop else 0,
                logits_processor=LogitsProcessorList([chooser]),
            )
        tokens = []
        for line in out[:, width:].tolist():
            end = next((i for i, token in enumerate(line) if token in stop), None)
            tokens.append(tuple(line if end is None else line[: end + 1]))
        return tokens, chooser.first


def _show(
    watch: Canary,
    prompts: Sequence[Sequence[int]],
    members: Sequence[int],
    logits: Tensor,
    begin: int,
) -> None:
    """Show the canary the logits after a block's prompts."""
    layout = plan_prefill(prompts, members)
    row_of = dict(zip(layout.unit_of_row, layout.order, strict=True))
    units = [(begin + sequence, member) for sequence, member in layout.units]
    watch.see(units, logits[[row_of[u] for u in range(len(units))]])


class _Chooser(LogitsProcessor):
    """Draws the token itself, and leaves ``generate`` no other choice."""

    def __init__(self, uniforms: Tensor, width: int, sampling: Sampling, never: Sequence[int]):
        self.first = uniforms.new_empty(0)
        """Logits after the prompts; set when the first token is drawn."""
        self._uniforms, self._width, self._sampling = uniforms, width, sampling
        self._never = never

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        background_work.pause()
        t = input_ids.shape[1] - self._width
        if t == 0:
            self.first = scores.clone()
        new = draw(scores, self._uniforms[:, t], self._sampling, self._never)
        return torch.full_like(scores, float("-inf")).scatter(1, new[:, None], 0.0)


def engine_for(adapted: AdaptedModel) -> Engine:
    """`FlatEngine` if its logits agree with the model's plain pass, else `GenerateEngine`.

    Takes a few small forward passes.
    """
    engine = FlatEngine(adapted)
    try:
        with quiet():  # transformers warns of models without AttentionInterface
            agrees = _agrees(engine)
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, RunError):
        agrees = False
    return engine if agrees else GenerateEngine(adapted)


def _agrees(engine: FlatEngine) -> bool:
    """Whether prefill and one decoding step give the logits of plain passes, for two members."""
    model, sites = engine.adapted.model, engine.adapted.sites
    count = vocabulary_size(model)
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
    layout = plan_prefill(rows, members)
    with torch.inference_mode():
        with use_flat_attention(model) as pause:
            batch = PrefillBatch(engine.adapted, deltas, layout, engine.max_tokens)
            cache, first = batch.fill(range(len(rows)), 1, None, pause)
            owner = torch.tensor([layout.member(row) for row in range(len(rows))])
            new = torch.full((len(rows),), 5 % count, device=model.device)
            with attend_with(cache), attach_deltas(model, sites, deltas, owner[None]):
                second = model(
                    input_ids=new[None], position_ids=cache.lengths[None], use_cache=False
                ).logits[0]
        for row, given in enumerate(layout.order):
            ids = torch.tensor([[*rows[given], 5 % count]], device=model.device)
            with attach_deltas(model, sites, deltas, torch.tensor([[members[given]]])):
                plain = model(input_ids=ids, use_cache=False).logits[0, -2:].to(torch.float32)
            mine = torch.stack([first[row], second[row]]).to(torch.float32)
            # In bf16, and more so with 4-bit weights, the order of sums matters. A wrong position
            # or mask gives an error of about the whole norm.
            tolerance = 1e-3 if model.dtype == torch.float32 else 0.2
            if not float((mine - plain).norm()) <= tolerance * float(plain.norm()):
                return False
    return True


def check_engine(
    make: Callable[[], Engine], sites: tuple[Site, ...], words: int, *, exact: bool = True
) -> None:
    """Raise RunError naming the clause of `Engine` that an engine breaks.

    Args:
        make: Builds the engine, for a model with a vocabulary of ``words``.
        sites: The sites that the model's deltas adapt; at least one.
        words: Size of the vocabulary.
        exact: The engine computes in fp32, so rows must not depend on their batch at all.
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
        len(whole) == len(prompts) and all(1 <= len(row) <= 6 for row in whole),
        "a row has no tokens, or more than max_new_tokens",
    )
    need(
        whole == again.generate(prompts, members, deltas, sampling, draws, canary=True),
        "the same call gives other tokens the second time",
    )
    need(whole[:4] != whole[4:], "two different members say the same")
    zero = Deltas(A, {name: torch.zeros_like(b) for name, b in B.items()})
    if exact:
        back = list(reversed(range(len(prompts))))
        turned = engine.generate(
            [prompts[i] for i in back], [members[i] for i in back], deltas, sampling, draws[back]
        )
        need(
            turned == tuple(whole[i] for i in back),
            "rows depend on their order in the batch",
        )
        for i in (1, 6):
            one = Deltas(A, {name: b[members[i] : members[i] + 1] for name, b in B.items()})
            alone = engine.generate([prompts[i]], [0], one, sampling, draws[i : i + 1])
            need(alone[0] == whole[i], "a row depends on what else is in the batch")
        need(
            engine.generate(prompts, members, zero, sampling, draws)
            == engine.generate(prompts, [0] * 8, None, sampling, draws),
            "members with B = 0 are not the base model",
        )
    try:
        engine.generate(prompts, members, zero, sampling, draws, canary=True)
    except RunError:
        pass
    else:
        need(False, "equal members pass the canary")
    logp = engine.logprobs(prompts, whole, members, deltas)
    need(
        all(
            values.shape == (len(row),) and bool((values <= 0).all())
            for values, row in zip(logp, whole, strict=True)
        ),
        "logprobs are not one number at most 0 per completion token",
    )
