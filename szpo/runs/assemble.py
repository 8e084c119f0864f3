"""The composition root: builds the parts of a run from settings, or again from its ledger.

Set-up happens once. Its results (adapter factors, subspace, panel) are stored in the ledger, so
resuming, sampling and exporting never repeat it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from szpo import __version__, plugins
from szpo.config import auto_model, optimizer
from szpo.config.optimizer import record_settings
from szpo.config.schema import NAMED, Config
from szpo.data import prompts as promptfiles
from szpo.data.prompts import PromptSet
from szpo.errors import IntegrityError, StorageError, UsageError
from szpo.features import described_taste, dictionary, user_features
from szpo.features.dictionary import Entry
from szpo.features.user_features import Rate
from szpo.files import quoted
from szpo.ledger import theta
from szpo.ledger.connection import check_place
from szpo.ledger.creation import NO_BASE, NewRun, draw_seed
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config, recorded_settings
from szpo.ledger.theta import theta_digests, updated_digests
from szpo.models import answer_shares
from szpo.optim.named_features import NamedFeatures, names_of
from szpo.optim.optimizer import describe_settings
from szpo.optim.settings import Settings
from szpo.policies import teachable
from szpo.policies.protocol import BaseScorer, Policy, draw_answers
from szpo.replay import replay
from szpo.runs import callbacks, doctor, guards, known_addresses, run_engine, taste_files
from szpo.taste import Direction
from szpo.types import Answer, Detail, Progress, Prompt, Say, unseen
from szpo.voting import shown_features
from szpo.voting.panel_evaluator import FUNCTION
from szpo.voting.panel_factory import (
    PEOPLE,
    PanelFactory,
    RunPanel,
    StartingPolicy,
    check_rate,
    find_rate,
    load_factory,
)

if TYPE_CHECKING:
    from szpo.policies.language_model import Base
    from szpo.policies.lora_policy import LoraPolicy
    from szpo.policies.subspaces import Subspace


SHARPNESS_PROMPTS, SHARPNESS_SAMPLES = 96, 4
"""Prompts, and base answers to each, to which a simulated panel's sharpness is fitted."""
FEW: Final = 20
"""Prompts whose answers are looked at where no panel is fitted to base answers."""
DRAWN: Final = (
    "run.seed: drawn and recorded, so that no voter can work out sides (set it to repeat)"
)


@dataclass(frozen=True)
class RunParts:
    """Everything that is needed to drive a run."""

    config: Config
    settings: Settings
    policy: Policy
    """A `LoraPolicy` where ``base`` is not None."""
    prompts: PromptSet
    panel: RunPanel | None = None
    """The panel that votes in this process; None where people vote."""
    base: Base | None = None
    """The language model and its coordinates; None for policies of other packages."""
    given: Sequence[str] = ()
    """The user's own features that were given in this process."""
    rate: Rate | None = None
    """Asks the run's judge for features that are still to be drawn; None where none is rated."""
    maker: run_engine.PolicyFactory | None = None
    """Builds another package's policy again; None for a language model."""
    earlier: Sequence[Direction] = ()
    """Of the tastes of features.prior, while the run's features are still to be drawn."""

    @property
    def state_layer(self) -> int | None:
        """The layer whose states votes are fitted on; None: none are wanted, or there are none."""
        wanted = self.config.features.layer
        if self.base is None or wanted == 0:
            return None
        return self.language.usual_layer if wanted == "auto" else wanted

    def close(self) -> None:
        """Release the model and its workers; may be called twice."""
        if self.base is not None:
            self.base.host.close()

    @cached_property
    def entries(self) -> Mapping[str, Entry] | None:
        """The functions that count the run's named features; None where it has none."""
        named = self.settings.described
        return None if named is None else shown_features.entries_of(named, self.given, self.rate)

    @property
    def language(self) -> LoraPolicy:
        """The policy as a language model."""
        if self.base is None:
            raise UsageError(
                f"policy {self.config.model.name} is not a language model; this needs one"
            )
        return cast("LoraPolicy", self.policy)


def new_path(config: Config) -> Path:
    """The path of a new run's file; its folder is created."""
    path = free_path(config)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent} cannot be written ({error.strerror})") from None
    if not os.access(path.parent, os.W_OK):
        raise StorageError(f"{path.parent} cannot be written; set another run.folder")
    check_place(path, new=True)
    return path


def free_path(config: Config) -> Path:
    """The path of a new run's file, which is not there yet."""
    path = Path(config.run.folder) / f"{config.run.name or default_name(config)}.db"
    if path.exists():
        other = "run.name" if _asks_people(config) else "run.name or run.seed"
        raise StorageError(
            f"{path} exists; continue it with: szpo run --resume {quoted(path)}, or set another "
            f"{other}"
        )
    return path


def default_name(config: Config) -> str:
    """A name from model, panel and seed; where people vote without the seed, since they read it.

    >>> default_name(Config())
    'smollm2-bt70-sentiment-0'
    """
    panel = config.panel
    model = config.model.name
    words = [panel.kind] if model == auto_model.AUTO else [Path(model).name, panel.kind]
    words += [panel.reward] if panel.kind not in ("people", "judge", "function") else []
    end = "" if _asks_people(config) else f"-{config.run.root_seed}"
    text = "-".join(words).lower()[: 64 - len(end)] + end
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in text)


@dataclass(frozen=True)
class CheckedConfig:
    """Settings that passed every check that needs no model."""

    config: Config
    prompts: PromptSet
    panel_factory: PanelFactory | None
    """None for people."""
    policy_factory: run_engine.PolicyFactory | None
    """None for a language model."""
    earlier: Sequence[Direction]
    """Of the tastes of features.prior."""
    notes: tuple[str, ...] = ()
    """Lines for the user about values chosen by `check`, and about the prompts."""


def _asks_people(config: Config) -> bool:
    return config.panel.kind == PEOPLE


def check(config: Config, panel: PanelFactory | None = None) -> CheckedConfig:
    """Check settings before anything is printed, loaded, generated or written.

    Where people vote and no seed is set, one is drawn: whoever knows the seed can work out sides.
    ``panel`` builds the panel; None: the factory registered as ``panel.kind``.
    """
    config.require_used()
    callbacks.check_tracker(config.run.tracker)
    user_features.choose(config.features.own, config.features.drop)
    earlier = taste_files.read_directions(config.features.prior)
    prompts = promptfiles.load_configured(config.prompts)
    panel_factory = panel or load_factory(config.panel.kind)
    notes: tuple[str, ...] = ()
    if config.run.seed is None:
        seed = draw_seed() if _asks_people(config) else config.run.root_seed
        config = config.model_copy(update={"run": config.run.model_copy(update={"seed": seed})})
        notes = (DRAWN,) if _asks_people(config) else ()
    policy_factory = run_engine.find_factory(config)
    if guards.read_questions(config.guards.keep) and policy_factory is not None:
        raise UsageError("guards.keep asks a language model; leave it out with other policies")
    if config.features.add and config.coordinates != "none" and policy_factory is not None:
        raise UsageError(
            f"features.add: policy {config.model.name} has no coordinates of named features; set "
            "subspace.kind=none, or leave it out"
        )
    if panel_factory is not None:
        panel_factory.check(config, (*prompts.train, *prompts.heldout))
    if policy_factory is None:
        run_engine.check_files(config)
        from szpo.policies import subspace_setup

        config, line = subspace_setup.take_set(run_engine.choose_device(config))
        notes = (*notes, Detail(line)) if line else notes
        prompts = fit_prompts(config, prompts)
        if config.coordinates in (*NAMED, "none"):
            line = user_features.tell_left_out(prompt.text for prompt in prompts.train)
            notes = (*notes, line) if line else notes
    notes = (*notes, *(f"warning: {warning}" for warning in prompts.warnings))
    check_rate(config, (*prompts.train, *prompts.heldout))
    return CheckedConfig(config, prompts, panel_factory, policy_factory, earlier, notes)


def build(
    config: Config,
    *,
    say: Say = print,
    checked: CheckedConfig | None = None,
    progress: Progress = unseen,
) -> RunParts:
    """Load the model, choose the coordinates, fit the panel. Cheap checks come first.

    ``checked`` is the result of `check`; ``progress`` is called with each stage.
    """
    found = checked or check(config)
    config, prompts, policy_factory = found.config, found.prompts, found.policy_factory
    given = tuple(config.features.own)
    for line in found.notes:
        say(line)
    if policy_factory is not None:
        policy = policy_factory(root_seed=config.run.root_seed)
        settings = config.optimizer_settings(policy.layout, 1.0, guides=False)
        for line in describe_words(config, None, prompts.train):
            say(line)
        parts = RunParts(config, settings, policy, prompts, given=given, maker=policy_factory)
        return _with_new_panel(parts, found, say)
    from szpo.policies import language_model

    if busy := doctor.leave_busy_cores():
        say(busy)
    progress("loading the model", 0, 0)
    host = run_engine.load_host(config, adapter=True, driven=True)
    with run_engine.closed_on_error(host):
        progress("choosing the coordinates", 0, 0)
        base = language_model.prepare(config, host, prompts.train, say, progress)
        space, named = base.subspace, base.subspace.named()
        for line in _describe_space(config, space, prompts.train):
            say(line)
        settings = config.optimizer_settings(space.layout, space.scale, named)
        policy = language_model.make_policy(config, base, settings)
        rate = find_rate(config, host)
        parts = RunParts(
            config, settings, policy, prompts, base=base, given=given, rate=rate,
            earlier=found.earlier,
        )  # fmt: skip
        taste_files.require_fitting(
            config.features.prior, found.earlier, parts.language, parts.state_layer
        )
        if named is not None and (still := set(config.features.own).difference(named.names)):
            say(warn_of_still(still, space.report.get("samples", 0)))
        if found.panel_factory is not None:
            progress("fitting the panel", 0, 0)
        return _with_new_panel(parts, found, say)


def _describe_space(config: Config, space: Subspace, prompts: Sequence[Prompt]) -> Iterator[str]:
    """Lines about the coordinates of a new run, and what can be taught in them."""
    yield from describe_words(config, space.named(), prompts)
    if space.blocks is not None:
        yield Detail(f"mixed: {', '.join(space.blocks.names)}")
    if space.features is not None:
        can = teachable.read(space.features.names, space.report)
        for what, text in teachable.describe(can, config.optimizer.D).items():
            yield Detail(f"{what}: {text}")
    yield from teachable.describe_ruler(space.report)


def describe_new(parts: RunParts, path: Path) -> str:
    """A line about a run that is set up: its file, and what its first step reads."""
    reads = parts.settings.idle and parts.base is not None
    more = "; the first step reads base answers for the features that votes may be about"
    return f"run {path.stem} in {path}{more if reads else ''}"


def describe_words(
    config: Config, named: NamedFeatures | None, prompts: Sequence[Prompt]
) -> tuple[str, ...]:
    """Lines that say what a person's words name; () without words.

    ``named``: the run's features; None where it draws them later.
    """
    if not config.features.said:
        return ()
    if named is not None:
        return described_taste.read(config.features.said, names_of(named))[1]
    holding = dictionary.holding([prompt.text for prompt in prompts])
    kept = user_features.choose(config.features.own, config.features.drop, holding)[0]
    return described_taste.read(config.features.said, [each.name for each in kept])[1]


def warn_of_still(names: Collection[str], answers: int) -> str:
    """Say that these own features do not differ in so many base answers."""
    return (
        f"warning: features.add: {', '.join(sorted(names))} is (nearly) the same in all "
        f"{answers} base answers, so that votes cannot be about it"
    )


def require_counted(parts: RunParts) -> None:
    """Refuse to drive a run if one of its features cannot be counted here."""
    if parts.settings.features is not None:
        shown_features.demand(parts.settings.features, parts.entries or {})
    elif parts.settings.idle:
        shown_features.demand_given(parts.config.features.own, parts.given)


def _with_new_panel(parts: RunParts, found: CheckedConfig, say: Say) -> RunParts:
    for line in describe_settings(parts.settings):
        say(Detail(line))
    if found.panel_factory is None:
        return parts
    drawn = cache(partial(_base_answers, parts))
    start = replace(_starting_policy(parts), answers=drawn)
    panel = found.panel_factory.build(parts.config, start)
    say(str(panel))
    if parts.base is not None:
        asked, rows = drawn() if drawn.cache_info().currsize else _few_answers(parts)
        if wrong := answer_shares.warn([prompt.text for prompt in asked], rows):
            say(f"warning: {wrong}")
    half, equal = teachable.foretell(panel.spec, parts.config.optimizer.D)
    if equal:
        say(f"{'warning' if half else 'questions'}: {equal}")
    return replace(parts, panel=panel)


def _few_answers(parts: RunParts) -> tuple[Sequence[Prompt], list[list[Answer]]]:
    """One answer of the base to each of a few prompts, where no panel is fitted to answers."""
    asked = parts.prompts.train[:FEW]
    return asked, draw_answers(parts.policy, asked, 1, seed=0)


def warn_of_equal_answers(checked: CheckedConfig) -> tuple[bool, str]:
    """Before loading a model: whether cached base answers look alike to the panel, and a text."""
    config, factory, nothing = checked.config, checked.panel_factory, (False, "")
    if factory is None or config.panel.kind in ("judge", FUNCTION):
        return nothing
    if checked.policy_factory is not None:
        return nothing
    from szpo.policies import language_model, subspace_setup

    model = subspace_setup.identify_model(config)
    if model is None:
        return nothing
    asked = checked.prompts.train[:SHARPNESS_PROMPTS]
    found = language_model.find_answers(config, model, asked)
    if found is None:
        return nothing
    start = StartingPolicy(answers=lambda: (asked, found), logprob=_require_model)
    try:
        return teachable.foretell(factory.build(config, start).spec, config.optimizer.D)
    except _ModelNeededError:
        return nothing


class _ModelNeededError(Exception):
    """A panel needs log-probabilities, which only a loaded model gives."""


def _require_model(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> NoReturn:
    raise _ModelNeededError


def create_ledger(parts: RunParts, path: Path) -> Ledger:
    """Write a new ledger with everything that replay, resume and export need."""
    config, prompts = parts.config, parts.prompts
    facts: dict[str, Any] = {"base": {"name": config.model.name}}
    tensors: dict[str, Any] = {}
    base_sha256, basis_sha256 = NO_BASE, None
    if parts.base is not None:
        from szpo.policies import language_model

        facts, tensors = language_model.record(parts.base)
        base_sha256 = parts.base.loaded.sha256
        basis_sha256 = parts.base.subspace.basis_sha256
    spec = {
        "szpo": __version__,
        "versions": doctor.versions(),
        "config": config.model_dump(mode="json", exclude={"optimizer"}),
        "optimizer": record_settings(parts.settings),
        "panel": None if parts.panel is None else parts.panel.spec,
        "prompts": {
            "train": len(prompts.train),
            "heldout": len(prompts.heldout),
            "sha256": prompts.sha256,
        },
        **facts,
    }
    if origins := _plugin_origins(config):
        spec["plugins"] = origins
    known_addresses.remember(known_addresses.calls_of_run(config))
    return Ledger.create(
        path,
        NewRun(
            spec,
            root_seed=config.run.root_seed,
            layout=parts.settings.layout,
            base_sha256=base_sha256,
            basis_sha256=basis_sha256,
            tensors=tensors,
        ),
    )


def _plugin_origins(config: Config) -> dict[str, dict[str, str]]:
    """The packages that provide the run's rule and engine, where these are not szpo's own."""
    named = {"rule": (optimizer.RULE_GROUP, config.optimizer.rule),
             "engine": ("szpo.engines", config.engine.kind)}  # fmt: skip
    found = {part: plugins.origin(*where) for part, where in named.items()}
    return {part: origin for part, origin in found.items() if origin is not None}


def reopen(
    ledger: Ledger,
    *,
    until: int | None = None,
    panel: bool = True,
    say: Say = print,
    device: str | None = None,
    engine: Mapping[str, Any] | None = None,
    features: Sequence[str] = (),
) -> RunParts:
    """The parts of a recorded run, its policy at the latest weights (or before step ``until``).

    The policy is put at the centre if the run is to be driven, else at the recommended point.

    ``panel``: the run is to be driven, so its panel is built and its prompts are required.
    ``device``: where a language model computes from now on. ``engine``: settings of its workers
    that change, see `run_engine.restore_engine`. ``features``: the user's own, as named here: no
    code is taken from the record.

    Raises:
        IntegrityError: Model, prompts or weights are not the recorded ones.
        UsageError: The ledger was not made by ``szpo run``, has fewer steps, or calls an address
            that nobody named on this machine.
    """
    config = recorded_config(ledger)
    if config is None:
        raise UsageError(f"{ledger.path.name} was not made by szpo run; open it from Python")
    config = run_engine.restore_engine(config, ledger, engine)
    if panel:
        known_addresses.require_trusted(known_addresses.calls_of_run(config), ledger.path.name)
    settings = recorded_settings(ledger)
    last = ledger.last_applied()
    if until is not None and until > (known := 0 if last is None else last + 1):
        raise UsageError(f"{ledger.path.name}: {known} steps are applied, not {until}; give fewer")
    policy_factory = run_engine.find_factory(config)
    given = tuple(features)
    if settings.features is not None:  # refused before a model is loaded
        shown_features.entries_of(settings.features, given)
    prompts = restore_prompts(config, ledger, needed=panel, say=say)
    if policy_factory is not None:
        policy = policy_factory(root_seed=config.run.root_seed)
        parts = RunParts(config, settings, policy, prompts, given=given, maker=policy_factory)
        return _at_head(ledger, parts, until, panel=panel)
    from szpo.policies import language_model

    config = run_engine.restore_device(config, ledger, wanted=device, driven=panel, say=say)
    if busy := doctor.leave_busy_cores():
        say(busy)
    host = run_engine.load_host(config, adapter=False, driven=panel)
    with run_engine.closed_on_error(host):
        if panel:
            run_engine.require_same_device(ledger, host.facts, wanted=device)
        base = language_model.restore(host, ledger)
        policy = language_model.make_policy(config, base, settings)
        rate = find_rate(config, host) if panel else None
        draws = panel and settings.awaits_features
        parts = RunParts(
            config, settings, policy, prompts, base=base, given=given, rate=rate,
            earlier=taste_files.read_directions(config.features.prior) if draws else (),
        )  # fmt: skip
        return _at_head(ledger, parts, until, panel=panel)


def _at_head(ledger: Ledger, parts: RunParts, until: int | None, *, panel: bool) -> RunParts:
    """Apply the recorded updates to the policy, and build the recorded panel."""
    driven = panel and until is None
    applied = replay.apply_recorded(
        ledger, parts.settings, parts.policy, until, "centre" if driven else "recommended"
    )
    heads = theta_digests(ledger) if driven else updated_digests(ledger)
    if parts.policy.digest() != heads[applied]:
        raise IntegrityError(
            f"{ledger.path.name}: {applied} recorded updates give other weights than recorded; "
            "find the row with: szpo verify"
        )
    if not driven and theta.last_adopted(ledger, until) is not None:
        parts.language.move_to(replay.fold(ledger, until))
    return with_recorded_panel(ledger, parts) if panel else parts


def with_recorded_panel(ledger: Ledger, parts: RunParts) -> RunParts:
    """The parts with the recorded panel; as they are where people vote."""
    factory = load_factory(parts.config.panel.kind)
    if factory is None:
        return parts
    start = _starting_policy(parts)
    recorded = ledger.spec.get("panel") or {}
    return replace(parts, panel=factory.build(parts.config, start, recorded))


def _starting_policy(parts: RunParts) -> StartingPolicy:
    policy = parts.policy
    return StartingPolicy(
        logprob=policy.logprob_base if isinstance(policy, BaseScorer) else None,
        host=None if parts.base is None else parts.base.host,
    )


def _base_answers(parts: RunParts) -> tuple[Sequence[Prompt], list[list[Answer]]]:
    """Answers of the base policy to which a panel is fitted, the same for all runs of one base."""
    # The seed is fixed, so the panel's sharpness depends on (base, reward, rows) and not on
    # the run. Answers of language models are cached, since they cost a minute.
    asked = parts.prompts.train[:SHARPNESS_PROMPTS]

    def draw() -> list[list[Answer]]:
        return draw_answers(parts.policy, asked, SHARPNESS_SAMPLES, seed=0)

    if parts.base is None:
        return asked, draw()
    from szpo.policies import language_model

    return asked, language_model.load_or_draw_answers(parts.config, parts.base, asked, draw)


def restore_prompts(config: Config, ledger: Ledger, *, needed: bool, say: Say) -> PromptSet:
    """Read the prompts that the run began with; a run can be exported without them."""
    digest, chosen = ledger.spec.get("prompts", {}).get("sha256"), config.prompts
    if chosen.path and not Path(chosen.path).exists():  # begun in another folder, or moved
        near = ledger.path.with_name(Path(chosen.path).name)
        chosen = chosen.model_copy(update={"path": str(near)}) if near.exists() else chosen
    try:
        found = promptfiles.load_configured(chosen, say)
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


def fit_prompts(config: Config, prompts: PromptSet) -> PromptSet:
    """Refuse prompts that are too long for the settings' language model."""
    from szpo.models import loading

    reader = loading.load_reader(config.model.name)
    return loading.fit_prompts(prompts, reader, config.generation.max_new_tokens)


def own_prompts(ledger: Ledger, texts: Sequence[str]) -> tuple[Prompt, ...]:
    """A person's own questions as prompts for a run's model, with the run's system prompt."""
    config = recorded_config(ledger)
    if not texts or config is None:
        return ()
    asked = tuple(Prompt.user(text, config.prompts.system) for text in texts)
    if run_engine.find_factory(config) is not None:
        return asked
    return fit_prompts(config, PromptSet(asked, ())).train
