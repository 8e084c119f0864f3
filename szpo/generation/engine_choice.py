"""Choose a model's engine, and test the engine's contract in public.

A model's code may use positions or shapes in ways that the flat batch does not allow. So the
choice is made by a trial: a few tokens through the flat batch, compared with a plain forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from szpo.cache import quiet
from szpo.errors import RunError
from szpo.generation.engine import Engine
from szpo.generation.flat_attention import attend_with, use_flat_attention
from szpo.generation.flat_engine import FlatEngine
from szpo.generation.generate_engine import GenerateEngine
from szpo.generation.prefill import PrefillBatch, plan_prefill
from szpo.generation.sampling import Sampling
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas
from szpo.models.logprobs import vocabulary_size
from szpo.models.lora_sites import Site


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
    """Raise RunError naming the clause of `szpo.generation.engine.Engine` that an engine breaks.

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
