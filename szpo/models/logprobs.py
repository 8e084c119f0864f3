"""Log-probabilities and Monte-Carlo KL of sampled answers; each row may have its own LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from scipy.sparse.linalg import ArpackError, eigsh
from torch import nn

from szpo import background_work
from szpo.errors import RunError
from szpo.models.batched_lora import AdaptedModel, Deltas, attach_deltas, keep_below, skip
from szpo.models.flat_attention import FlatReading, use_flat_attention
from szpo.models.out_of_memory import split_halved
from szpo.types import Floats

TOKENS = 4096
"""Tokens of one forward pass, padding included."""
FLAT_TOKENS = 1024
"""Tokens of one forward pass without padding: few enough for a pause every second or two."""
LOGITS = 24_000_000
"""Logits of one pass (values); 4 bytes each, a few copies live at once."""
KL_LOGITS = 6_000_000
"""Logits that a plain head computes at once, or those of `READ_AT_ONCE` positions."""
READ_AT_ONCE = 120
"""Positions that a plain head reads at once at least: each product reads the whole head again."""
WIDENED = 16
"""Positions whose logits are widened to fp32 at once: they stay in the processor's cache."""
_plain: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Models for which `head_is_plain` has been tried."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt and one answer as tokens; a stop token that ended the answer belongs to it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    group: int = 0
    """Index of the prompt, to keep answers to one prompt together when samples are split."""


@dataclass(frozen=True)
class Batch:
    """Token rows whose answers begin in one column: prompts padded left, answers padded right.

    Tensors (rows, length); ``mask`` marks answer positions among the last ``width`` ones.
    """

    index: tuple[int, ...]
    ids: torch.Tensor
    attention: torch.Tensor
    width: int
    mask: torch.Tensor

    @property
    def positions(self) -> torch.Tensor:
        """Position of each token in its own row."""
        return (self.attention.cumsum(1) - 1).clamp(min=0)

    @property
    def targets(self) -> torch.Tensor:
        """The answer's tokens, (rows, width)."""
        return self.ids[:, -self.width :]


def batches(
    samples: Sequence[Sample],
    *,
    device: torch.device,
    vocab: int,
    tokens: int = TOKENS,
    logits: int = LOGITS,
) -> Iterator[Batch]:
    """Samples in batches of similar length, bounded in tokens and in logits.

    Before each of them is a pause point (`szpo.background_work`).
    """
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt + samples[i].answer))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order):
            rows = [samples[i] for i in order[start : end + 1]]
            length = max(len(s.prompt) for s in rows) + max(len(s.answer) for s in rows)
            width = max(len(s.answer) for s in rows)
            if len(rows) * length > tokens or len(rows) * (width + 1) * vocab > logits:
                break
            end += 1
        background_work.pause()
        yield _pad(samples, tuple(order[start:end]), device)
        start = end


def _pad(samples: Sequence[Sample], index: tuple[int, ...], device: torch.device) -> Batch:
    width = max(len(samples[i].answer) for i in index)
    left = max(len(samples[i].prompt) for i in index)
    ids = torch.zeros(len(index), left + width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    mask = torch.zeros(len(index), width, dtype=torch.bool)
    for row, i in enumerate(index):
        prompt, answer = samples[i].prompt, samples[i].answer
        first, last = left - len(prompt), left + len(answer)
        ids[row, first:left] = torch.tensor(prompt)
        ids[row, left:last] = torch.tensor(answer)
        attention[row, first:last] = 1
        mask[row, : len(answer)] = True
    return Batch(index, ids.to(device), attention.to(device), width, mask.to(device))


@contextmanager
def before_head(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Let the LM head see only what ``change`` makes of its input inside the block.

    Nothing is changed where a model tells of no head.
    """
    if (head := model.get_output_embeddings()) is None:
        yield
        return

    def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (change(inputs[0]), *inputs[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def densely(states: torch.Tensor) -> torch.Tensor:
    """A copy without strides of a longer array: with these a product copies the head's weights.

    `Tensor.contiguous` would: it takes dimensions of size one for dense.
    """
    return states.new_empty(states.shape).copy_(states)


def answer_positions(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns that predict the answers' tokens, in the order of the batch's mask."""
    rows, columns = batch.mask.nonzero(as_tuple=True)
    return rows, columns + batch.ids.shape[1] - batch.width - 1


def run_batch(model: Any, batch: Batch) -> Any:
    """The output of the model, or of its body, for these rows."""
    return model(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        position_ids=batch.positions,
        use_cache=False,
    )


def head_inputs(model: Any, at: tuple[torch.Tensor, ...], run: Callable[[], Any]) -> torch.Tensor:
    """What the head reads at some rows and columns while ``run`` runs the model, (n, hidden)."""
    seen: list[torch.Tensor] = []

    def keep(states: torch.Tensor) -> torch.Tensor:
        seen.append(states[at])
        # The head needs some input. ``states[:, :1]`` would keep the strides of all positions, and
        # a product with such an array copies the whole head.
        return seen[0][:1, None]

    with before_head(model, keep):
        run()
    return seen[0]


def logit_slices(
    model: Any,
    at: tuple[torch.Tensor, ...],
    run: Callable[[], Any],
    temperature: float = 1.0,
    *,
    sliced: bool,
) -> Iterator[torch.Tensor]:
    """Logits over temperature at some rows and columns of a pass, `WIDENED` at a time, fp32.

    ``run`` runs the model, once. With ``sliced`` (see `reads_slices`) the head reads a few
    positions at a time afterwards, so that a pass may have many rows. Slices may be overwritten.
    """
    if sliced:
        states = head_inputs(model, at, run)
        size = max(READ_AT_ONCE, KL_LOGITS // vocabulary_size(model))
        several: Iterator[torch.Tensor] = map(
            model.get_output_embeddings(), torch.split(states, size)
        )
    else:
        with before_head(model, lambda states: states[at][None]):
            several = iter((run().logits[0],))
    parts = (few for logits in several for few in torch.split(logits, WIDENED))
    return (few.to(torch.float32).div_(temperature) for few in parts)


def token_logprobs(slices: Iterable[torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of each of these tokens, nats, by the `logit_slices` that predict them."""
    logprobs, first = [tokens.new_zeros(0, dtype=torch.float32)], 0
    for logits in slices:
        own = tokens[first : first + len(logits), None]
        logprobs.append(logits.log_softmax(-1).gather(-1, own)[:, 0])
        first += len(logits)
    return torch.cat(logprobs)


def answer_logits(model: Any, batch: Batch, temperature: float) -> torch.Tensor:
    """Logits over temperature that predict the answers' tokens, fp32, (tokens, vocabulary).

    Tokens in the order of ``batch.mask.nonzero()``: row by row. The head is the largest product
    of a small model; padding and prompts need no logits. What a model does to its logits
    afterwards (soft caps, scaling) still happens.
    """
    at = answer_positions(batch)
    with before_head(model, lambda states: states[at][None]):
        logits: torch.Tensor = run_batch(model, batch).logits[0]
    logits = logits.to(torch.float32)
    return logits / temperature if temperature != 1.0 else logits


def reads_slices(adapted: AdaptedModel) -> bool:
    """Whether the head may read a few positions of all rows: it is plain and not adapted."""
    model = adapted.model
    if model not in _plain:
        _plain[model] = head_is_plain(model)
    head = model.get_output_embeddings()
    return _plain[model] and all(model.get_submodule(s.name) is not head for s in adapted.sites)


def head_is_plain(model: Any) -> bool:
    """Whether the logits are one product with a matrix, tried on three tokens."""
    head, seen = model.get_output_embeddings(), []
    if type(head) is not nn.Linear:
        return False
    handle = head.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    ids = torch.arange(3, device=model.device)[None] % vocabulary_size(model)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    return bool(torch.equal(logits, seen[0]))


def _per_row(batch: Batch, values: torch.Tensor) -> torch.Tensor:
    """Sums of per-token values by row, on the CPU: a GPU would add in no fixed order."""
    rows = batch.mask.nonzero(as_tuple=True)[0].cpu()
    return torch.zeros(len(batch.index), dtype=values.dtype).index_add(0, rows, values.cpu())


def vocabulary_size(model: Any) -> int:
    """Number of tokens that the model's head writes logits for."""
    return int(model.config.get_text_config().vocab_size)


def input_directions(
    adapted: AdaptedModel, samples: Sequence[Sample]
) -> dict[str, NDArray[np.float32]]:
    """Leading right singular vectors of each module's inputs, each scaled to unit rms output.

    As EVA initialises a LoRA's A (arXiv 2410.07170), from prompts with the model's own answers.
    The sign makes the largest entry positive.

    Returns:
        ``site.a`` → A, (rank, in), fp32.
    """
    model, sites = adapted.model, adapted.sites
    moments = {s.name: torch.zeros(s.inputs, s.inputs, device=model.device) for s in sites}
    state: dict[str, Any] = {}

    def hook_of(name: str) -> Callable[..., None]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen = inputs[0].to(torch.float32)[state["attention"]]
            moments[name] += seen.T @ seen

        return hook

    handles = [
        model.get_submodule(s.name).register_forward_pre_hook(
            background_work.only_here(hook_of(s.name))
        )
        for s in sites
    ]
    count = 0
    try:
        with torch.inference_mode():
            for batch in batches(samples, device=model.device, vocab=1):
                state["attention"] = batch.attention.bool()
                count += int(batch.attention.sum())
                run_batch(body(model), batch)
    finally:
        for handle in handles:
            handle.remove()
    factors = {}
    for site in sites:
        moment = (moments[site.name] / count).double().cpu().numpy()
        if not np.isfinite(moment).all():
            raise RunError(
                f"what {site.name} reads is not finite; set model.dtype to fp32, or choose other "
                "adapter.layers"
            )
        values, vectors = _find_leading(moment, site.rank)
        top = vectors.T
        top = top * np.sign(top[np.arange(site.rank), np.abs(top).argmax(1)])[:, None]
        rms = np.sqrt(np.maximum(values, 1e-12))
        factors[site.a] = np.ascontiguousarray(top / rms[:, None], dtype=np.float32)
    return factors


def _find_leading(symmetric: Floats, count: int) -> tuple[Floats, Floats]:
    """`largest_eigenpairs`, by Lanczos iterations if ``count`` is small."""
    size = len(symmetric)
    if count <= size // 20:
        try:
            values, vectors = eigsh(symmetric, count, v0=np.ones(size))
        except ArpackError:  # Inputs that are all 0, for one.
            pass
        else:
            order = np.argsort(values)[::-1]
            return values[order], vectors[:, order]
    return largest_eigenpairs(symmetric, count)


def largest_eigenpairs(symmetric: Any, count: int) -> tuple[Floats, Floats]:
    """The ``count`` largest eigenvalues, or all there are, and eigenvectors; largest first."""
    size = len(symmetric)
    values, vectors = linalg.eigh(symmetric, subset_by_index=(max(size - count, 0), size - 1))
    return values[::-1], vectors[:, ::-1]


def label_odds(
    model: Any, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> Floats:
    """Log-probability, nats, with which each prompt is followed by each of its labels.

    ``labels``: for each prompt the tokens that might follow, the same number for each.

    Returns:
        (prompts, labels).
    """
    samples = [Sample(tuple(p), (few[0],)) for p, few in zip(prompts, labels, strict=True)]
    odds = np.zeros((len(samples), len(labels[0]) if labels else 0))
    with torch.inference_mode():
        for batch in batches(samples, device=model.device, vocab=vocabulary_size(model)):
            logp = answer_logits(model, batch, 1.0).double().log_softmax(-1)
            for row, at in enumerate(batch.index):
                odds[at] = logp[row, list(labels[at])].cpu()
    return odds


def hidden_features(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Floats:
    """Mean and last of each answer's final hidden states, (answers, 2 · hidden)."""
    samples = [Sample(tuple(p), tuple(a)) for p, a in zip(prompts, answers, strict=True)]
    features: list[torch.Tensor] = [torch.zeros(0)] * len(samples)
    inner = body(model)
    with torch.inference_mode():
        for batch in batches(samples, device=model.device, vocab=vocabulary_size(model)):
            hidden = run_batch(inner, batch).last_hidden_state[:, -batch.width :]
            for row, at in enumerate(batch.index):
                spoken = hidden[row, batch.mask[row]].cpu().to(torch.float64)
                features[at] = torch.cat([spoken.mean(0), spoken[-1]])
        return np.stack([row.numpy() for row in features]) if features else np.zeros((0, 0))


def body(model: Any) -> Any:
    """The model without its head, where it has such a part."""
    return getattr(model, model.base_model_prefix, model)


def kl_of_members(
    adapted: AdaptedModel,
    deltas: Deltas,
    samples: Sequence[Sample],
    owner: Sequence[int],
    *,
    reference: Deltas | None = None,
    temperature: float = 1.0,
    flat: bool = False,
) -> Floats:
    """KL(π_member ‖ π_reference) in nats per completion, one value per member's sample.

    Each position's KL is summed over the whole vocabulary, Σ_t KL(π(·|y_<t) ‖ π₀(·|y_<t)), which
    has the same mean as log π/π₀ of the answer and a far smaller spread.

    ``owner``: the member of each sample. ``reference``: one member to compare with; None is the
    base model. ``flat``: read without padding, for models that
    `szpo.models.local_engines.FlatEngine` can run.
    """
    model, sites = adapted.model, adapted.sites
    sliced = reads_slices(adapted)
    bounds = {"vocab": 1} if sliced else {"vocab": vocabulary_size(model), "logits": KL_LOGITS}

    def measure(part: NDArray[np.int64]) -> Floats:
        nats = np.empty(len(part))
        few = [samples[i] for i in part]
        for batch in batches(few, device=model.device, **bounds):
            rows = torch.tensor([owner[part[i]] for i in batch.index], device=model.device)
            at, run = answer_positions(batch), partial(run_batch, model, batch)
            with attach_deltas(model, sites, deltas, rows[:, None]), keep_below(adapted) as below:
                moved = logit_slices(model, at, run, temperature, sliced=sliced)
            background_work.pause()
            with attach_deltas(model, sites, reference), skip(below):
                still = logit_slices(model, at, run, temperature, sliced=sliced)
            each = torch.cat([*map(kl_of_logits, moved, still)])
            nats[list(batch.index)] = _per_row(batch, each)
        return nats

    def measure_flat(part: NDArray[np.int64]) -> Floats:
        nats, owners = np.empty(len(part)), torch.tensor([owner[i] for i in part])
        few = [samples[i] for i in part]
        reading = FlatReading(model, [s.prompt for s in few], [s.answer for s in few])
        with use_flat_attention(model) as pause:
            pause()
            own, other = reading.begin(sites, deltas), reading.begin(sites, reference)
            for rows in reading.parts(FLAT_TOKENS):
                pause()
                at, members = reading.places(rows), owners[rows]
                each = members.repeat_interleave(reading.lengths[rows])[None]
                run = partial(reading.read, rows, own, members)
                with attach_deltas(model, sites, deltas, each), keep_below(adapted) as below:
                    moved = logit_slices(model, at, run, temperature, sliced=True)
                pause()
                run = partial(reading.read, rows, other, torch.zeros_like(members))
                with attach_deltas(model, sites, reference), skip(below):
                    still = logit_slices(model, at, run, temperature, sliced=True)
                values = torch.cat([*map(kl_of_logits, moved, still)]).cpu()
                parts = torch.split(values, [reading.spoken[row] for row in rows])
                nats[rows] = [float(each.sum()) for each in parts]
        return nats

    with torch.inference_mode():
        work = measure_flat if flat and sliced else measure
        return split_halved(work, np.arange(len(samples)))


def kl_of_logits(moved: torch.Tensor, still: torch.Tensor) -> torch.Tensor:
    """KL, Σ p (log p − log q), by logits (positions, vocabulary), which are overwritten.

    The two normalisers are taken out of the sum over the vocabulary.
    """
    gap = moved - still
    (norm, total), (other, _) = _exponentiate(moved), _exponentiate(still)
    return moved.mul_(gap).sum(-1) / total - (norm - other)


def _exponentiate(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn logits into unnormalised p, in place; the log of their sum of exponentials, and Σ p."""
    top = logits.amax(-1)
    total = logits.sub_(top[:, None]).exp_().sum(-1)
    return top + total.log(), total
