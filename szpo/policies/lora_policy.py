"""`LoraPolicy`: a transformers model whose LoRA weights are perturbed, one copy for all members.

The master coordinates θ are fp32 NumPy arrays of `szpo.optim.parameters`; torch only gets copies.
A rollout turns each shift into a *member* (with its own LoRA factors) and generates all members in
one batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from szpo import seeds
from szpo.errors import StorageError, UsageError
from szpo.models import adapters, loading, states, weight_files
from szpo.models.batched_lora import Deltas
from szpo.models.engine_contract import Engine
from szpo.models.loading import Loaded, ModelFacts
from szpo.models.lora import Site
from szpo.models.sampling import Sampling, row_key
from szpo.models.scores import ScoredLaw
from szpo.optim import parameters
from szpo.optim.guided_directions import Span
from szpo.optim.parameters import Space
from szpo.optim.sample_directions import Law
from szpo.policies.backend import (
    KL,
    AnswerRequest,
    Backend,
    LocalBackend,
    LogProbs,
    MeanStates,
    Moves,
    Scores,
    Totals,
    start_of,
)
from szpo.policies.subspaces import Subspace
from szpo.types import Answer, Batch, Comparison, Floats, Layout, Prompt, Shift, Theta, Update

SPOKEN: Final = 64
"""Tokens in which an answer that people read before and after tuning has a full sentence."""


class LoraPolicy:
    """A causal language model in the coordinates of a `szpo.policies.subspaces.Subspace`.

    KL and fluency are measured against the starting policy (θ₀: z = 0, or the subspace's own
    start): the base model, or base plus starting adapter.
    """

    def __init__(
        self,
        loaded: ModelFacts,
        subspace: Subspace,
        *,
        root_seed: int,
        law: Law | None = None,
        sampling: Sampling | None = None,
        crn: bool = True,
        host: Backend | None = None,
    ):
        """The policy at its start, with directions from ``root_seed`` by ``law``.

        ``crn``: plus and minus of a direction share their uniform numbers, row by row. ``host``
        holds the model; None: this process does, and ``loaded`` is a `Loaded`.
        """
        self.loaded = loaded
        self.subspace = subspace
        self.sampling, self.crn = sampling or Sampling(), crn
        self.space = Space(root_seed, subspace.layout, law or Law.for_dim(subspace.dim))
        host = host or LocalBackend(self.held)
        self.backend: Backend = host.at(subspace, self.space, run=True)
        """Answers and reads for this policy; tests replace it."""
        self._reader = loading.reader_of(loaded)
        self._basis_sha256 = subspace.basis_sha256
        self._theta: Theta = self.start()

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.space.dim

    @property
    def layout(self) -> Layout:
        """Names and shapes of the master coordinates."""
        return self.space.layout

    def start(self) -> Theta:
        """θ₀ of a run: zeros in a subspace, the starting factors otherwise."""
        return start_of(self.subspace)

    def theta(self) -> Theta:
        """The master coordinates; do not write to the arrays."""
        return self._theta

    def move_to(self, theta: Theta) -> None:
        """Move the policy to θ, or to every moving factor, as recomputed from a ledger."""
        layout = self._layout_of(theta)
        parameters.check_theta(theta, layout)
        self._theta = {name: np.array(theta[name]) for name, _ in layout}

    def guide(self, spans: tuple[Span, ...]) -> None:
        """Draw directions with these spans from now on, in their order all of a run's."""
        self.space = replace(self.space, spans=spans)
        self.backend = self.backend.at(self.subspace, self.space, run=True)

    def apply(self, update: Update) -> None:
        """θ ← θ + coef · v(step, k), or θ ← θ + vector, on the fp32 master coordinates."""
        self._theta = parameters.apply_update(self.space, self._theta, update)

    def digest(self) -> str:
        """SHA-256 of θ in canonical form."""
        if (layout := self._layout_of(self._theta)) is not self.layout:
            return parameters.digest(self._theta, layout)
        return parameters.digest(self._theta, layout, self._basis_sha256)

    def _layout_of(self, theta: Theta) -> Layout:
        """That of the coordinates z, or of every moving factor where θ is these."""
        adopted = self.subspace.in_z and self.subspace.is_whole(theta)
        return self.subspace.whole_layout if adopted else self.layout

    @property
    def held(self) -> Loaded:
        """The model with its weights, in this process."""
        if not isinstance(self.loaded, Loaded):
            raise UsageError(f"model {self.loaded.name} is held by workers, not by this process")
        return self.loaded

    @property
    def local(self) -> LocalBackend:
        """The backend with the model of this process."""
        if not isinstance(self.backend, LocalBackend):
            raise UsageError(f"model {self.loaded.name} is held by workers, not by this process")
        return self.backend

    @property
    def engine(self) -> Engine:
        """The engine of this process; see `local`."""
        return self.local.engine

    @property
    def halved_rows(self) -> int | None:
        """Rows of the engine's batches after memory ran out; None if it has not."""
        if not isinstance(self.backend, LocalBackend):
            return None
        return getattr(self.backend.engine, "halved_rows", None)

    # ---- answers ----

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's tokens, through the chat template."""
        return loading.encode(self.loaded.tokenizer, prompt)

    def encode_all(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """The tokens of prompts that will be answered."""
        ids = [self.encode(prompt) for prompt in prompts]
        self.require_room(ids)
        return ids

    def require_room(self, rows: Sequence[Sequence[int]]) -> None:
        """Refuse tokens after which the model cannot read a whole answer."""
        loading.require_room(self._reader, rows, self.sampling.max_new_tokens)

    def rollout(
        self, prompts: Sequence[Sequence[Prompt]], shifts: Sequence[Shift], *, seed: int
    ) -> list[Batch]:
        """Answers to ``prompts[i]`` at θ + ``shifts[i]``, all in one generation call."""
        if len(prompts) != len(shifts):
            raise UsageError(f"rollout: {len(prompts)} lists of prompts, {len(shifts)} shifts")
        if not shifts:
            return []
        still = Shift(0, 0, 0, 0.0)
        member_of: dict[Shift, int] = {}
        owner = [
            member_of.setdefault(s if s.sign * s.radius else still, len(member_of)) for s in shifts
        ]
        first = {member: shifts[i] for i, member in reversed(list(enumerate(owner)))}
        sizes = [len(part) for part in prompts]
        ids = self.encode_all([prompt for part in prompts for prompt in part])
        number = {prompt: i for i, prompt in enumerate(dict.fromkeys(ids))}
        keys = [row_key(seed, shift, crn=self.crn) for shift in shifts]
        stream = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        row = iter(ids)
        table = [
            (number[next(row)], owner[i], stream[keys[i]], place)
            for i, size in enumerate(sizes)
            for place in range(size)
        ]
        request = AnswerRequest(
            self.theta(),
            tuple(first[m] for m in range(len(first))),
            tuple(number),
            tuple(stream),
            np.array(table, np.int64).reshape(-1, 4),
            self.sampling,
            canary=len(first) > 1,
        )
        answers = [self.answer(tokens) for tokens in self.backend.answer(request)]
        cuts = np.cumsum([0, *sizes]).tolist()
        return [tuple(answers[a:b]) for a, b in itertools.pairwise(cuts)]

    def sample(
        self, prompts: Sequence[Prompt], samples: int = 1, *, seed: int, base: bool = False,
        places: Sequence[int] | None = None,
    ) -> list[list[Answer]]:  # fmt: skip
        """``samples`` answers to each prompt at θ, or at the start with ``base``.

        The random numbers depend only on seed, the prompt's place (by default its index) and
        sample, so calls with the same arguments compare two policies under common random numbers.
        """
        rows = self.sample_tokens(prompts, samples, seed=seed, base=base, places=places)
        return self._by_prompt(rows, samples)

    def _by_prompt(self, rows: Sequence[Sequence[int]], samples: int) -> list[list[Answer]]:
        answers = [self.answer(row) for row in rows]
        return [answers[i : i + samples] for i in range(0, len(answers), samples)]

    def sample_with_kl(
        self, prompts: Sequence[Prompt], samples: int, *, seed: int,
        places: Sequence[int] | None = None,
    ) -> tuple[list[list[Answer]], tuple[float, float]]:  # fmt: skip
        """`sample` at θ, and `kl_of` the first answer to each prompt: nothing is drawn twice."""
        rows = self.sample_tokens(prompts, samples, seed=seed, places=places)
        return self._by_prompt(rows, samples), self.kl_of(prompts, rows[::samples])

    def likeliest(self, prompts: Sequence[Prompt], *, base: bool = False) -> list[Answer]:
        """The likeliest answer to each prompt at θ, up to its last full sentence, for readers.

        It has `SPOKEN` tokens at least, if the model reads so many.
        """
        own, most = self.sampling, self._reader.most
        longest = max(map(len, self.encode_all(prompts)), default=0)
        room = SPOKEN if most is None else min(SPOKEN, most - longest)
        tokens = max(own.max_new_tokens, room)
        greedy = Sampling(0.0, max_new_tokens=tokens, stop=own.stop, whole_sentences=True)
        rows = self.sample_tokens(prompts, seed=0, base=base, sampling=greedy)
        return [self.answer(row) for row in rows]

    def sample_tokens(
        self,
        prompts: Sequence[Prompt],
        samples: int = 1,
        *,
        seed: int,
        base: bool = False,
        sampling: Sampling | None = None,
        places: Sequence[int] | None = None,
    ) -> tuple[tuple[int, ...], ...]:
        """The tokens of `sample`, including end tokens; answers to one prompt are consecutive.

        ``sampling``: how they are drawn, if not as the run's.
        """
        ids = self.encode_all(prompts)
        number = {prompt: i for i, prompt in enumerate(dict.fromkeys(ids))}
        table = [
            (number[prompt], 0, 0, place * samples + j)
            for place, prompt in zip(places or range(len(ids)), ids, strict=True)
            for j in range(samples)
        ]
        request = AnswerRequest(
            self.start() if base else self.theta(),
            (Shift(0, 0, 0, 0.0),),
            tuple(number),
            (seeds.derive(seed, "sample prompts"),),
            np.array(table, np.int64).reshape(-1, 4),
            sampling or self.sampling,
            base=base,
        )
        return self.backend.answer(request)

    def answer(self, tokens: Sequence[int]) -> Answer:
        """Tokens as a text for people; see `szpo.models.loading.answer_of`."""
        return loading.answer_of(self.loaded, tokens, self.sampling.stop)

    # ---- distance to the start ----

    def kl(self, prompts: Sequence[Prompt], *, seed: int, samples: int = 1) -> tuple[float, float]:
        """KL(π_θ ‖ π_start) in nats per completion: mean over answers drawn at θ, and its s.e.

        Each token's KL is exact over the whole vocabulary; only the path is sampled. The
        distributions are those at the temperature, without top-p and top-k. The standard error is
        over prompts.
        """
        if not prompts or samples < 1:
            raise UsageError("kl: needs at least one prompt and one sample")
        return self.kl_of(prompts, self.sample_tokens(prompts, samples, seed=seed))

    def kl_of(
        self, prompts: Sequence[Prompt], rows: Sequence[tuple[int, ...]]
    ) -> tuple[float, float]:
        """`kl` from answers that were already drawn at θ, as many to each prompt in turn."""
        samples = len(rows) // len(prompts)
        ids = [self.encode(prompt) for prompt in prompts]
        request = KL(
            tuple(ids[i // samples] for i in range(len(rows))),
            tuple(rows),
            (self.theta(),),
            (0,) * len(rows),
            temperature=self.sampling.temperature or 1.0,
        )
        nats = self.backend.read(request)
        means = nats.reshape(len(prompts), samples).mean(axis=1)
        spread = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else float("nan")
        return float(means.mean()), float(spread)

    def logprob_base(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """Mean log-probability per token of each answer at the start, nats: its fluency.

        Texts are tokenized again, and the end token counts where the answer ended with one. An
        answer without any token has nan.
        """
        rows = tuple(tuple(loading.answer_tokens(self.loaded, answer)) for answer in answers)
        asked = tuple(self.encode(prompt) for prompt in prompts)
        values = self.backend.read(LogProbs(asked, rows))
        logp = np.split(values, np.cumsum([len(row) for row in rows])[:-1])
        return np.array([v.mean() if len(v) else np.nan for v in logp[: len(rows)]])

    def total_logprob_base(self, prompt: Prompt, answers: Sequence[Answer]) -> Floats:
        """Log-probability of each whole answer after the prompt at the start, in nats (answers,).

        Texts are tokenized again, and the end token counts where the answer ended with one. The
        prompt is read once for all answers.
        """
        rows = tuple(tuple(loading.answer_tokens(self.loaded, answer)) for answer in answers)
        asked = (self.encode(prompt),) * len(rows)
        return self.backend.read(Totals(asked, rows))

    @property
    def usual_layer(self) -> int:
        """The layer whose states are read by default."""
        return states.usual_layer(self.loaded.config.get_text_config().num_hidden_layers)

    def mean_states(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], layer: int
    ) -> Floats:
        """States of answers' texts at the start, (answers, hidden); see `szpo.models.states`."""
        rows = tuple(tuple(loading.text_tokens(self.loaded, answer)) for answer in answers)
        return self.backend.read(MeanStates(tuple(map(self.encode, prompts)), rows, layer))

    # ---- scores ----

    def score_features(self, comparisons: Sequence[Comparison]) -> Floats:
        """The score differences between plus and minus texts of a step's comparisons, (K, N, d).

        The mean whitened score of the plus texts minus that of the minus texts, in units of z, in
        which the scores of a score subspace have unit covariance at the start. What all texts of a
        comparison have in common cancels. A text that is shown several times is read once, and
        rows with equal texts are not read.

        The regression of rewards on scores is the natural policy gradient (Kakade 2001, A natural
        policy gradient, theorem 1: compatible features). So the difference is a regressor of the
        vote: it turns the random variation of the texts from noise into signal. It works with any
        texts, also older or human ones; the policy's position does not matter.
        """
        ordered = sorted(comparisons, key=lambda c: (c.k, c.n))
        number: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        parts: list[tuple[int, int, float]] = []  # comparison, text, weight
        for i, comparison in enumerate(ordered):
            for row in comparison.rows:
                for answer, sign in ((row.plus, 1.0), (row.minus, -1.0)):
                    tokens = tuple(loading.answer_tokens(self.loaded, answer))
                    if tokens and not row.identical:  # an empty text has no word to score
                        place = number.setdefault((self.encode(row.prompt), tokens), len(number))
                        parts.append((i, place, sign / len(comparison.rows)))
        scores = self.whitened_scores(list(number))
        differences = np.zeros((len(ordered), scores.shape[1]))
        for i, place, weight in parts:
            differences[i] += weight * scores[place]
        return differences.reshape(len({c.k for c in ordered}), -1, scores.shape[1])

    def whitened_scores(self, texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Floats:
        """Scores (texts, d) of prompts with answers at the start; see the function below."""
        temperature = self.sampling.temperature
        return whitened_scores(self.backend, self.subspace, texts, temperature=temperature)

    # ---- weights ----

    def factors(self, theta: Theta | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """All LoRA factors at θ (default: the current θ), by ``site.a`` and ``site.b``, fp32."""
        return self.subspace.factors(self.theta() if theta is None else theta)

    def deltas(self, thetas: Sequence[Theta]) -> Deltas | None:
        """LoRA deltas of members at these coordinates, on the model's device; None for none."""
        return self.local.deltas(thetas)

    def save_adapter(self, path: Path, *, theta: Theta | None = None) -> None:
        """Write the adapter at θ (default: the current θ) in PEFT's format, with equal logits."""
        sites = self.subspace.sites
        adapters.save_adapter(
            path,
            self.factors(theta),
            sites,
            base=self.loaded.name,
            conv1d=any(adapters.is_conv1d(self.held.model, site) for site in sites),
        )

    def merge(self, path: Path, *, theta: Theta | None = None) -> None:
        """Write the model with the adapter merged into its weights, and the tokenizer."""
        save_merged(path, self.held, self.factors(theta), self.subspace.sites)


def whitened_scores(
    backend: Backend,
    subspace: Subspace,
    texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    *,
    temperature: float,
) -> Floats:
    """Scores in the coordinates z: ∇_z log π(answer | prompt) = Pᵀ ∇_B log π, at the start.

    For adapters as coordinates they are differences (`szpo.models.scores`), not gradients.

    They hold away from the start only where log-probabilities are linear in the coordinates.

    ``texts``: prompts and answers, as tokens.

    Returns:
        (texts, d).
    """
    if not subspace.in_z:
        raise UsageError(
            "scores need coordinates z; with subspace.kind full every weight is a coordinate: "
            "set subspace.kind to features"
        )
    if temperature == 0:
        raise UsageError("temperature 0 has no score; set generation.temperature above 0")
    if not texts:
        return np.zeros((0, subspace.dim))
    prompts, answers = zip(*texts, strict=True)
    if subspace.blocks is not None:
        members = tuple({"z": row} for row in np.eye(subspace.dim, dtype=np.float32))
        asked = Moves(prompts, answers, members, temperature, fisher=False)
        return backend.read(asked)[:, 0]
    basis = np.concatenate([v.reshape(-1, subspace.dim) for v in subspace.basis.values()])
    request = Scores(prompts, answers, ScoredLaw(temperature))
    return np.asarray(backend.read(request).astype(np.float64) @ basis)


def save_merged(path: Path, loaded: Loaded, factors: Theta, sites: tuple[Site, ...]) -> None:
    """Write the model and its tokenizer as a plain folder, with W + scale · B A in place of W.

    The sum is computed in fp32 and rounded once.
    """
    if loaded.quantization is not None:
        raise UsageError(
            "nothing can be merged into a 4-bit model; load the adapter beside it (no --merged)"
        )
    state = dict(loaded.model.state_dict())
    for site in sites:
        key = f"{site.name}.weight"
        weight = state[key]
        update = torch.from_numpy(adapters.delta_weight(factors, site)).to(weight.device)
        if weight.shape != update.shape or adapters.is_conv1d(loaded.model, site):
            update = update.T  # Conv1D keeps (in, out)
        state[key] = (weight.to(torch.float32) + update).to(weight.dtype)
    try:
        path.mkdir(parents=True, exist_ok=True)
        weight_files.save_model(loaded.model, path, state_dict=state)
        loaded.tokenizer.save_pretrained(str(path))
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
