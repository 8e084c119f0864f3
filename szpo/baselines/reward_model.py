"""A reward model by binary cross-entropy (Bradley–Terry) through TRL's RewardTrainer.

    loss = −log σ(r(x, y⁺) − r(x, y⁻))

It is a linear head on the last hidden state and a LoRA on the base model, whose weights are not
copied. The head starts at zero, so all rewards are equal and the first loss is ln 2.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from szpo.baselines import actor as actors
from szpo.baselines import recipes, trainer
from szpo.baselines.asking import Score, Shared, Trained
from szpo.baselines.trainer import drop_too_long, require_pairs
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import StorageError, UsageError
from szpo.models import adapters
from szpo.models.batched_lora import Deltas, attach_deltas, find_sites
from szpo.models.loading import Loaded, encode, tokenize
from szpo.models.lora import Site
from szpo.policies.backend import stack
from szpo.policies.language_model import random_start
from szpo.types import Answer, Prompt, Row, Theta

METHOD = "reward-model"
ROWS = 64
"""Rows in one forward pass when scoring."""

HEAD, FACTS = "reward_head.npy", "reward_model.json"
SCALE_PAIRS = 320
"""Number of pairs from which a learned reward's mean and spread are estimated."""


@dataclass(frozen=True)
class RewardModel:
    """A learned reward: the base model, a LoRA, and a head (hidden,)."""

    loaded: Loaded
    sites: tuple[Site, ...]
    factors: Theta
    head: NDArray[np.float32]

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[float]:
        """Rewards of answers; works also while an actor is trained on the same base model."""
        rows = [reward_tokens(self.loaded, p, a) for p, a in zip(prompts, answers, strict=True)]
        scores = np.zeros(len(rows))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        deltas = stack(self.sites, self.factors, [{}], self.loaded.device)
        with actors.without_adapters(self.loaded.model), torch.inference_mode():
            for begin in range(0, len(order), ROWS):
                part = order[begin : begin + ROWS]
                scores[part] = self._scores([rows[i] for i in part], deltas)
        return [float(x) for x in scores]

    def _scores(self, rows: Sequence[Sequence[int]], deltas: Deltas) -> NDArray[np.float64]:
        model = self.loaded.model
        device = self.loaded.device
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
        seen = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device)
        with attach_deltas(model, self.sites, deltas):
            hidden = model.base_model(
                input_ids=ids, attention_mask=seen, use_cache=False
            ).last_hidden_state
        # As in training: the last token that is not padding.
        real = (ids != pad_token(self.loaded)) & (seen == 1)
        last = (real * torch.arange(width, device=device)).argmax(1)
        weight = torch.from_numpy(self.head).to(device)
        values = compute_rewards(hidden[torch.arange(len(rows), device=device), last], weight)
        return np.asarray(values.double().cpu().numpy())

    def margins(self, rows: Sequence[Row]) -> list[float]:
        """How sure it is of each row: the distance of both answers' rewards."""
        gaps = self._gaps([(row.prompt, row.plus, row.minus) for row in rows])
        return [float(gap) for gap in np.abs(gaps)]

    def agreement(self, pairs: Sequence[Pair]) -> float:
        """Share of pairs whose chosen answer has the higher reward; equal rewards count half."""
        gaps = self._gaps([(pair.prompt, pair.chosen, pair.rejected) for pair in pairs])
        return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())

    def _gaps(self, twos: Sequence[tuple[Prompt, Answer, Answer]]) -> NDArray[np.float64]:
        """How much more it rewards the first of two answers than the second."""
        prompts = [prompt for prompt, _, _ in twos]
        first, second = [one for _, one, _ in twos], [other for _, _, other in twos]
        return np.subtract(self(prompts, first), self(prompts, second), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write a folder for `load`: PEFT's two files, the head, and a file of facts."""
        model = self.loaded.model
        conv1d = any(adapters.is_conv1d(model, site) for site in self.sites)
        adapters.save_adapter(
            folder, self.factors, self.sites, base=self.loaded.name, conv1d=conv1d
        )
        facts = {
            "base_sha256": self.loaded.identity.base.sha256,
            "sites": [asdict(s) for s in self.sites],
        }
        try:
            np.save(folder / HEAD, self.head, allow_pickle=False)
            (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{folder}: cannot be written ({error.strerror})") from None


def read_facts(folder: Path) -> dict[str, Any]:
    """What `RewardModel.save` wrote of a model beside its tensors; refuses any other folder."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return {**facts, "sites": tuple(Site(**site) for site in facts["sites"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{folder} holds no reward model; train one: szpo baseline reward-model"
        ) from None


def load(folder: Path, loaded: Loaded) -> RewardModel:
    """Load the reward model that `RewardModel.save` wrote, on the same base model.

    Raises:
        UsageError: the folder has no reward model, lacks a tensor, or is for another base model.
    """
    from szpo.models.adapters import read_adapter

    facts = read_facts(folder)
    try:
        head = np.load(folder / HEAD, allow_pickle=False)
    except (OSError, ValueError):
        raise UsageError(f"{folder} lacks {HEAD}; train the reward model again") from None
    sites = facts["sites"]
    if facts.get("base_sha256") != loaded.identity.base.sha256:
        raise UsageError(
            f"{folder}: the reward model is not for {loaded.name}; give its own model.name"
        )
    return RewardModel(loaded, sites, adapters.factors(read_adapter(folder), sites), head)


def train(
    loaded: Loaded,
    data: Preferences,
    recipe: recipes.RewardModel | None = None,
    **shared: Unpack[Shared],
) -> tuple[RewardModel, Trained]:
    """Fit a reward model to these pairs.

    ``data`` without pairs: its ties appear in the error. ``shared``: see
    `szpo.baselines.asking.Shared`.
    """
    require_pairs(data, METHOD)
    listener, seed = trainer.Listener.begin(METHOD, shared), shared["seed"]
    from datasets import Dataset
    from peft import LoraConfig
    from trl import RewardConfig, RewardTrainer

    recipe = recipe or recipes.RewardModel()
    targets = recipe.targets if isinstance(recipe.targets, str) else list(recipe.targets)
    lora = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.rank, target_modules=targets, task_type="CAUSAL_LM"
    )
    sites = find_sites(loaded.model, lora)
    rows = [
        {
            "chosen_ids": reward_tokens(loaded, pair.prompt, pair.chosen),
            "rejected_ids": reward_tokens(loaded, pair.prompt, pair.rejected),
        }
        for pair in data.pairs
    ]
    longest = [max(map(len, row.values())) for row in rows]
    most = trainer.limit_length(loaded, recipe.max_length)
    rows = drop_too_long(rows, longest, most, METHOD)
    shell = _shell(loaded)
    start = random_start(sites, seed)
    with (
        trainer.isolate() as folder,
        actors.without_adapters(loaded.model),
        actors.wrap_peft(loaded, sites, model=shell, task=None) as model,
    ):
        made = RewardTrainer(
            model=model,
            args=RewardConfig(
                **trainer.base_arguments(loaded, folder, seed, METHOD),
                **trainer.schedule_arguments(recipe),
                max_length=most,
                center_rewards_coefficient=recipe.center,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=loaded.tokenizer,
        )
        shell.score.weight.data = torch.zeros_like(shell.score.weight, dtype=torch.float32)
        shell.score.requires_grad_(True)
        trainer.fit(made, listener, shell, sites, start)
        learned = RewardModel(
            loaded,
            sites,
            actors.read_weights(shell, sites),
            shell.score.weight.detach().float().cpu().numpy()[0].copy(),
        )
    return learned, listener.finish(len(rows), len(data.pairs), data.ties)


def reward_tokens(loaded: Loaded, prompt: Prompt, answer: Answer) -> list[int]:
    """The tokens that a reward model reads: prompt and answer, without the end token.

    The sequence classifiers of transformers find the end of a text by the padding token, which
    many tokenizers share with the end token.
    """
    return [*encode(loaded.tokenizer, prompt), *tokenize(loaded.tokenizer, answer.text)]


def pad_token(loaded: Loaded) -> int:
    """The padding token, or the end token if there is none, as in TRL."""
    pad = loaded.tokenizer.pad_token_id
    return int(loaded.tokenizer.eos_token_id if pad is None else pad)


def compute_rewards(hidden: Tensor, weight: Tensor) -> Tensor:
    """Rewards of hidden states (…, width): standardised, times the head, divided by √width."""
    plain = nn.functional.layer_norm(hidden.to(torch.float32), hidden.shape[-1:])
    # Divided by √width, so that one learning rate suits any width.
    value: Tensor = plain @ weight / math.sqrt(hidden.shape[-1])
    return value


class Head(nn.Module):
    """A linear head on standardised hidden states, in fp32."""

    def __init__(self, width: int, device: torch.device):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width, device=device))

    def forward(self, hidden: Tensor) -> Tensor:
        """Rewards (…, 1)."""
        return compute_rewards(hidden, self.weight[0])[..., None]


def _shell(loaded: Loaded) -> Any:
    """Make a sequence classifier of transformers around the loaded model's own layers."""
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(loaded.model.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = pad_token(loaded)
    make: Callable[[Any], Any] = AutoModelForSequenceClassification.from_config
    try:
        with torch.device("meta"):
            shell = make(config)
    except ValueError:
        kind = type(loaded.model).__name__
        raise UsageError(
            f"{METHOD}: transformers has no sequence classifier for {kind}; choose another model"
        ) from None
    prefix = loaded.model.base_model_prefix
    setattr(shell, prefix, getattr(loaded.model, prefix))
    shell.score = Head(config.get_text_config().hidden_size, loaded.device)
    for name in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer"):
        if hasattr(loaded.model, name):
            setattr(shell, name, getattr(loaded.model, name))
    return shell


def scale_reward(learned: Score, pairs: Sequence[Pair]) -> Score:
    """Scale a learned reward: minus its mean for the prompt, divided by its spread within prompts.

    Means and spread are from the answers of the first `SCALE_PAIRS` pairs; other prompts get the
    mean over all. Pairs determine neither a reward model's level for a prompt nor its spread.
    Without scaling, the same KL penalty would be of different strength for each model (compare
    Ziegler et al. 2019, section 2.1).
    """
    pairs = pairs[:SCALE_PAIRS]
    prompts = [pair.prompt for pair in pairs] * 2
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    seen = np.asarray(learned(prompts, answers))
    of_prompt: dict[Prompt, list[float]] = {}
    for prompt, value in zip(prompts, seen.tolist(), strict=True):
        of_prompt.setdefault(prompt, []).append(value)
    means = {prompt: float(np.mean(values)) for prompt, values in of_prompt.items()}
    middle = float(seen.mean())
    # Two answers to one prompt differ by √2 times the spread within prompts.
    gaps = seen[: len(pairs)] - seen[len(pairs) :]
    spread = math.sqrt(float((gaps**2).mean()) / 2) or 1.0

    def score(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Sequence[float]:
        values = zip(prompts, learned(prompts, answers), strict=True)
        return [(value - means.get(prompt, middle)) / spread for prompt, value in values]

    return score
