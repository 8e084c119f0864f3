"""Mixes of adapters by hand, of a run or of a set: what they answer, cost, and are as one adapter.

Nats are of each adapter alone, by its measured curve. They do not add up: the KL of a whole mix is
measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from szpo.config.schema import Config
from szpo.data.prompts import PromptSet
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.policies import language_model
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.subspaces import Blocks
from szpo.runs import assemble, run_engine, run_prompts
from szpo.types import Answer, Prompt, Say

MEASURED = 8
"""Prompts on which a mix's KL is measured."""


@dataclass(frozen=True, eq=False)
class Mixer:
    """A policy in the weights of named adapters."""

    config: Config
    policy: LoraPolicy
    blocks: Blocks
    heldout: tuple[Prompt, ...]

    def encode(self, texts: Sequence[str]) -> tuple[Prompt, ...]:
        """A person's own questions as prompts.

        Raises:
            UsageError: One is empty, or too long for the model.
        """
        if any(not text.strip() for text in texts):
            raise UsageError("the prompt is empty; give a question")
        asked = tuple(Prompt.user(text, self.config.prompts.system) for text in texts)
        return run_prompts.fit(self.config, PromptSet(asked, ())).train if texts else ()

    def move_to(self, nats: Mapping[str, float]) -> dict[str, float]:
        """Move the policy to a mix; returns the adapters' weights by name."""
        self.policy.move_to({"z": self.blocks.point(nats)})
        weights = self.blocks.weights(self.policy.theta()["z"])
        return dict(zip(self.blocks.names, weights.tolist(), strict=True))

    def kl(self, asked: Sequence[Prompt], *, seed: int) -> tuple[float, float]:
        """KL of the present mix to the start in nats, with its error, on held-out prompts.

        On ``asked`` where nothing is held out.
        """
        return self.policy.kl(self.heldout[:MEASURED] or asked, seed=seed)

    def answer(self, asked: Sequence[Prompt], *, seed: int, base: bool = False) -> list[Answer]:
        """An answer to each prompt, of the present mix or of the start."""
        return [answers[0] for answers in self.policy.sample(asked, seed=seed, base=base)]

    def save(self, nats: Mapping[str, float], folder: Path) -> Path:
        """Write the mix as one PEFT adapter; equal mixes get the same folder in ``folder``."""
        self.move_to(nats)
        name = f"mix-{self.policy.digest()[:8]}"
        self.policy.save_adapter(folder / name)
        return folder / name


def of_run(ledger: Ledger, say: Say) -> Mixer:
    """The mixer of a recorded run; its policy begins at the weights that the run recommends."""
    parts = assemble.reopen(ledger, panel=False, say=say)
    blocks = parts.language.subspace.blocks
    if blocks is None:
        raise UsageError("this run's coordinates have no names to mix; see subspace.adapters")
    return Mixer(parts.config, parts.language, blocks, tuple(parts.prompts.heldout))


def of_set(config: Config, say: Say) -> Mixer:
    """The mixer of the settings' adapters at the start; their metric is measured or stored."""
    found = assemble.check(config)
    host = run_engine.load_host(found.config, adapter=True, driven=False)
    base = language_model.prepare(found.config, host, found.prompts.train, say)
    blocks = base.subspace.blocks
    assert blocks is not None, "the settings name adapters"
    settings = found.config.optimizer_settings(base.subspace.layout, base.subspace.scale)
    policy = language_model.make_policy(found.config, base, settings)
    return Mixer(found.config, policy, blocks, tuple(found.prompts.heldout))
