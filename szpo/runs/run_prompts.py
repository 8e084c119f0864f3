"""The prompts of a run: fitted to its model, and the same ones when the run is resumed."""

from __future__ import annotations

from collections.abc import Sequence

from szpo.config.schema import Config
from szpo.data import prompts as promptfiles
from szpo.data.prompts import PromptSet
from szpo.errors import IntegrityError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.runs import run_engine
from szpo.types import Prompt, Say


def restore(config: Config, ledger: Ledger, *, needed: bool, say: Say) -> PromptSet:
    """Read the prompts that the run began with; a run can be exported without them."""
    digest = ledger.spec.get("prompts", {}).get("sha256")
    try:
        found = promptfiles.load_configured(config.prompts, say)
        if digest not in (None, found.sha256):
            raise IntegrityError(
                f"{config.prompts.path or 'the shipped prompts'}: not the prompts that "
                f"{ledger.path.name} began with; put the former file back"
            )
    except (UsageError, IntegrityError) as error:
        if needed:
            raise
        say(f"warning: {error}")
        return PromptSet((), ())
    return found


def fit(config: Config, prompts: PromptSet) -> PromptSet:
    """Refuse prompts that are too long for the settings' language model."""
    from szpo.models import context

    reader = context.load_reader(config.model.name)
    return context.fit_prompts(prompts, reader, config.generation.max_new_tokens)


def own_prompts(ledger: Ledger, texts: Sequence[str]) -> tuple[Prompt, ...]:
    """A person's own questions as prompts for a run's model, with the run's system prompt."""
    config = recorded_config(ledger)
    if not texts or config is None:
        return ()
    asked = tuple(Prompt.user(text, config.prompts.system) for text in texts)
    if run_engine.find_factory(config) is not None:
        return asked
    return fit(config, PromptSet(asked, ())).train
