"""Build a judge from its settings: ``panel.kind = "judge"`` and the table ``[judge]``.

A local judge is refused if its longest question does not fit into its model's context.

A judge in this process or its workers (`Local`) is any causal language model of transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np

from szpo.config.schema import Config
from szpo.config.tables import Judge
from szpo.data import text_files
from szpo.errors import IntegrityError, UsageError
from szpo.features.user_features import Pair
from szpo.judges import endpoint, prompting
from szpo.judges.llm_judge import JudgeEvaluator, LanguageJudge, Opinionated, probability
from szpo.judges.prompting import LETTERS, Backend, Labels, Question, Reply
from szpo.models import loading
from szpo.models.loading import ModelFacts, Reader
from szpo.models.sampling import Sampling
from szpo.policies.backend import AnswerRequest, Odds
from szpo.policies.backend import Backend as ModelBackend
from szpo.types import Prompt
from szpo.voting.panel_factory import StartingPolicy
from szpo.voting.service import VoteService

REPLY_START = "Verdict:"
"""The start of a weighed reply; else small models most likely begin with pleasantries."""
LABELS: Final = ("yes", "no")
FINE: Final = 1000
"""What a rating of p(yes) is multiplied by before it is rounded."""
PARALLEL: Final = 4
"""Comparisons that an endpoint judges in parallel."""
AT_ONCE: Final = 32
"""Answers in one batch of a local model."""
MAX_BYTES = 4_000_000
"""Largest file of principles or references, bytes."""
_LIMITS = text_files.Limits(MAX_BYTES, MAX_BYTES, MAX_BYTES)


@dataclass(frozen=True)
class Local:
    """Asks a model that this process or its workers hold, all questions of a call at once."""

    backend: ModelBackend
    """Answers with that model, without adapters."""
    max_tokens: int = 256

    @property
    def facts(self) -> ModelFacts:
        """The model."""
        return self.backend.facts

    @property
    def name(self) -> str:
        """The model's name."""
        return self.facts.name

    @property
    def reserved(self) -> tuple[str, ...]:
        """Texts that the tokenizer turns into one control token, wherever they occur."""
        added = self.facts.tokenizer.get_added_vocab()
        return tuple(sorted({*self.facts.tokenizer.all_special_tokens, *added}))

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """See `Backend.write`."""
        asked = [loading.encode(self.facts.tokenizer, each.prompt) for each in questions]
        replies = [self._too_long(ids, self.max_tokens) for ids in asked]
        fits = [i for i, reply in enumerate(replies) if reply is None]
        if fits:
            sampling = Sampling(temperature=0.0, max_new_tokens=self.max_tokens)
            rows = [(n, 0, n, 0) for n in range(len(fits))]
            request = AnswerRequest(
                {}, (), tuple(asked[i] for i in fits), tuple(questions[i].key for i in fits),
                np.array(rows, np.int64), sampling,
            )  # fmt: skip
            stop = frozenset(loading.stop_tokens(self.facts))
            for i, new in zip(fits, self.backend.answer(request), strict=True):
                ended = bool(new) and new[-1] in stop
                text = self.facts.tokenizer.decode(
                    new[: -1 if ended else None],
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=False,
                )
                replies[i] = Reply(text, ended=ended, tokens_in=len(asked[i]), tokens_out=len(new))
        return [reply for reply in replies if reply is not None]

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """See `Backend.weigh`: one forward pass over all questions, both labels read from it."""
        lead, first, second = self.fork(labels)
        asked = [(*loading.encode(self.facts.tokenizer, q.prompt), *lead) for q in questions]
        replies = [self._too_long(ids, 1) for ids in asked]
        fits = [i for i, reply in enumerate(replies) if reply is None]
        if fits:
            pairs = ((first, second),) * len(fits)
            request = Odds(tuple(asked[i] for i in fits), pairs)
            odds = self.backend.read(request).tolist()
            for i, (one, other) in zip(fits, odds, strict=True):
                replies[i] = Reply(odds=(one, other), tokens_in=len(asked[i]))
        return [reply for reply in replies if reply is not None]

    def fork(self, labels: Labels) -> tuple[tuple[int, ...], int, int]:
        """The tokens that begin a reply under either label, and the first token of each after."""
        one, other = (
            loading.tokenize(self.facts.tokenizer, f"{REPLY_START} {label}") for label in labels
        )
        for at, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return tuple(one[:at]), a, b
        raise UsageError(
            f"judge {self.name}: its tokenizer cannot tell {' from '.join(labels)}; set judge.ask "
            "to verdict or grades, or take another judge.model"
        )

    def _too_long(self, ids: Sequence[int], new: int) -> Reply | None:
        reader = loading.reader_of(self.facts)
        if not reader.over(len(ids) + new):
            return None
        return Reply(failure=f"{len(ids)} tokens, but the model reads {reader.most}", final=True)


@dataclass(frozen=True)
class Ratings:
    """Rates how far a sentence holds for answers: grades 1 to 5, or thousandths of p(yes)."""

    backend: Backend
    settings: Judge
    sha256: str = ""
    """Of a local model's weights."""

    @property
    def model(self) -> str:
        """The judge's model."""
        return self.settings.model

    def __call__(self, what: str, pairs: Sequence[Pair]) -> list[int]:
        """See `szpo.features.user_features.Rate`."""
        ask, remote = self.settings.ask, self.settings.kind == "endpoint"
        settings = self.settings.model_copy(update={"ask": ask if ask == "soft" else "grades"})
        judge = LanguageJudge(self.backend, settings, what, labels=LABELS)

        def rate(shown: Sequence[Pair]) -> list[int]:
            replies = judge.rate([(Prompt.user(prompt), text) for prompt, text in shown])
            grades = [each.value for each in replies]
            return (
                [round(FINE * probability(each)) for each in grades] if ask == "soft" else grades
            )

        size = 1 if remote else AT_ONCE
        parts = [pairs[at : at + size] for at in range(0, len(pairs), size)]
        with ThreadPoolExecutor(PARALLEL if remote else 1) as pool:
            return list(chain(*pool.map(rate, parts)))


@dataclass(frozen=True)
class JudgePanel:
    """A panel of one judge, or of several copies if its answers can vary, and its spec."""

    settings: Judge
    judges: tuple[Opinionated, ...]
    spec: Mapping[str, Any]

    def evaluator(
        self, service: VoteService, *, name: str = "judge", complete: bool = True
    ) -> JudgeEvaluator:
        """The panel as an evaluator that votes through a vote service."""
        at_once = PARALLEL if self.settings.kind == "endpoint" else 1
        return JudgeEvaluator(
            service, self.judges, name=name, concurrency=at_once, complete=complete
        )

    def __str__(self) -> str:
        s = self.settings
        where = f" at {urlsplit(s.base_url or '').hostname}" if s.kind == "endpoint" else ""
        how = "" if s.kind == "scorer" else f", {s.ask}, both orders"
        return f"judge {s.model} ({s.kind}{where}{how}), {len(self.judges)} in the panel"


class Maker:
    """The panel factory ``judge`` of the entry point `szpo.evaluators`."""

    def check(self, config: Config, prompts: Sequence[Prompt] | None = None) -> None:
        """Check what can be checked before a model is loaded; without prompts, less."""
        _, references = _files(config.judge)
        known = prompts is None or any(prompt.text in references for prompt in prompts)
        if references and not known:
            raise UsageError(
                f"{config.judge.references}: no prompt of this run has a reference there; its "
                "prompts must be exactly those of the run"
            )
        if config.judge.kind == "endpoint":
            endpoint.connect(config.judge)
        elif config.judge.kind == "scorer" and not Path(config.judge.model).is_file():
            raise UsageError(
                f"judge.model {config.judge.model} is not a file; train one with: szpo scorer"
            )
        if prompts is not None:
            self.check_room(config, prompts)

    def check_room(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Refuse a local judge whose model cannot read the longest question about prompts."""
        if config.judge.kind == "local":
            from szpo.models import loading

            reader = loading.load_reader(config.judge.model)
            require_room(config, prompts, reader, *_files(config.judge))

    def rate(self, config: Config, host: ModelBackend | None) -> Ratings:
        """The judge as a rater of single answers, for the user's own features."""
        backend, sha256 = _backend(config, host, LABELS)
        return Ratings(backend, config.judge, sha256 or "")

    def check_ratings(self, config: Config, prompts: Sequence[Prompt]) -> None:
        """Refuse a judge that cannot rate answers to these prompts; see `check`."""
        if config.judge.kind == "scorer":
            raise UsageError(
                "features.add: a scorer cannot rate single answers; name a language model by "
                "judge.model"
            )
        one = {"ask": "soft" if config.judge.ask == "soft" else "grades"}
        asked = {
            "judge": config.judge.model_copy(
                update=one | {"principles": None, "references": None}
            ),
            "optimizer": config.optimizer.model_copy(update={"D": 1}),
            "panel": config.panel.model_copy(
                update={"guideline": max(config.features.judged, key=len)}
            ),
        }
        self.check(config.model_copy(update=asked), prompts)

    def build(
        self,
        config: Config,
        start: StartingPolicy,
        recorded: Mapping[str, Any] | None = None,
    ) -> JudgePanel:
        """The panel of a run; if the judge's model is the run's own, that is not loaded twice."""
        settings = config.judge
        principles, references = _files(settings)
        spec: dict[str, Any] = {
            "panel": "judge",
            "judge": settings.model_dump(mode="json"),
            "criterion": config.panel.brief,
            "principles": list(principles),
            "references_sha256": _sha256(references) if references else None,
        }
        judge, spec["model_sha256"] = _judge(config, principles, references, start.host)
        for key in ("model_sha256", "principles", "references_sha256"):
            if recorded is not None and recorded.get(key) != spec[key]:
                raise IntegrityError(
                    f"judge: {key.removesuffix('_sha256')} is not what this run began with; put "
                    "the original file back"
                )
        size = 1 if settings.same_each_time else config.panel.size
        return JudgePanel(settings, (judge,) * size, spec)


judge = Maker()


def _judge(
    config: Config,
    principles: tuple[str, ...],
    references: Mapping[str, str],
    host: ModelBackend | None,
) -> tuple[Opinionated, str | None]:
    """Make the judge; also the digest of its weights if they are on this machine."""
    settings = config.judge
    if settings.kind == "scorer":
        from szpo.judges import pair_scorer

        scorer = pair_scorer.load_judge(
            Path(settings.model), settings, lambda name: _beside(config, name, host)
        )
        return scorer, scorer.sha256
    backend, sha256 = _backend(config, host)
    made = LanguageJudge(backend, settings, config.panel.brief, principles, references)
    return made, sha256


def _backend(
    config: Config, host: ModelBackend | None, labels: Labels = LETTERS
) -> tuple[Backend, str | None]:
    settings = config.judge
    if settings.kind == "endpoint":
        return endpoint.connect(settings), None

    local = Local(_beside(config, settings.model, host), settings.max_tokens)
    if settings.ask == "soft":
        local.fork(labels)  # refused now, not after the set-up
    return local, local.facts.identity.base.sha256


def _beside(config: Config, name: str, host: ModelBackend | None) -> ModelBackend:
    """A judge's model, where the run's own model is; without a run, this process loads it."""
    if host is None:
        from szpo.models import loading
        from szpo.policies.backend import LocalBackend

        own = config.model
        host = LocalBackend(loading.load(name, dtype=own.dtype, device=own.device))
    return host.beside(name)


def _files(settings: Judge) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Read principles and references."""
    principles: tuple[str, ...] = ()
    if settings.principles is not None:
        path = _small(settings.principles, "judge.principles")
        with text_files.open_text(path, _LIMITS) as file:
            lines = [text.strip() for _, text in text_files.read_lines(file, path, MAX_BYTES)]
        principles = tuple(text for text in lines if text and not text.startswith("#"))
        if not principles:
            raise UsageError(f"{settings.principles}: no principle; write one on each line")
    references: dict[str, str] = {}
    if settings.references is not None:
        path = _small(settings.references, "judge.references")
        for where, value in text_files.read_json(path, _LIMITS):
            record = text_files.require_object(value, where)
            prompt, reference = record.get("prompt"), record.get("reference")
            if not all(isinstance(each, str) and each for each in (prompt, reference)):
                raise UsageError(f'{where}: give {{"prompt": "…", "reference": "…"}}')
            references[str(prompt)] = str(reference)
        if not references:
            raise UsageError(f"{settings.references}: no reference in it; write one on each line")
    return principles, references


def _small(path: str, key: str) -> Path:
    size, _ = text_files.inspect_file(Path(path), key)
    if size > MAX_BYTES:
        raise UsageError(f"{key} {path} is {size:,} bytes; {MAX_BYTES:,} are allowed")
    return Path(path)


def _sha256(references: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(references, sort_keys=True).encode()).hexdigest()


def require_room(
    config: Config,
    prompts: Sequence[Prompt],
    reader: Reader,
    principles: Sequence[str] = (),
    references: Mapping[str, str] | None = None,
) -> None:
    """Refuse a judge whose model cannot read its longest question and write its reply.

    That is the question about the longest prompts with the longest principle, in which every
    answer has ``generation.max_new_tokens`` tokens.
    """
    judge = config.judge
    rows = config.optimizer.D
    longest = sorted(set(prompts), key=reader.tokens, reverse=True)
    if not longest:
        return
    shown = [longest[i % len(longest)] for i in range(rows)]
    frame = _frame(config, shown, reader, principles, references)
    sides = 1 if judge.ask == "grades" else 2
    answers = sides * rows * config.generation.max_new_tokens
    reply = 1 if judge.ask == "soft" else judge.max_tokens
    if reader.over(frame + answers + reply):
        raise UsageError(
            f"judge {judge.model} reads {reader.most:,} tokens, and its longest question needs "
            f"{frame + answers + reply:,}: {frame:,} for instructions and {rows} prompts, "
            f"{answers:,} for answers of generation.max_new_tokens, {reply:,} for its reply; "
            + (
                "lower optimizer.D, or let it judge row by row: optimizer.D = 1"
                if rows > 1
                else "lower generation.max_new_tokens or judge.max_tokens, or shorten prompts"
            )
        )


def _frame(
    config: Config,
    shown: Sequence[Prompt],
    reader: Reader,
    principles: Sequence[str],
    references: Mapping[str, str] | None,
) -> int:
    """Tokens of the question with empty answers."""
    criterion = max(principles, key=len, default=config.panel.brief)
    given = prompting.Instructions(criterion, references or {})
    if config.judge.ask == "grades":
        asked = prompting.ask_grade([(prompt, "") for prompt in shown], given, again=True)
    else:
        asked = prompting.ask_verdict(
            "soft" if config.judge.ask == "soft" else "verdict",
            [(prompt, "", "") for prompt in shown],
            given,
            again=True,
        )
    return reader.tokens(asked)
