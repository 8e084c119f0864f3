"""Self-rewarding language models (Yuan et al. 2024): DPO on answers that the model judges itself.

M0 is the base. M1 is M0 fitted to examples (answers, and judgements if there are any), or M0
itself without examples. M2 and later models are made by DPO from the one before, on its own
candidates: it draws several answers to each prompt, judges each several times with up to five
points, and pairs the best with the worst by mean points; ties are dropped. Nobody else votes.

Each model is a folder that appears when it is complete, with the adapter, the judged candidates,
the pairs and a record. A stopped run resumes after its last complete folder.

A judge is only as good as its model: SmolLM2-135M gives no readable score, so its run stops at M2
(docs/how-to/compare-with-dpo.md). The figure ``parsed`` is the share of judgements with a score.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from szpo import files, seeds
from szpo.baselines import asking, dpo, trainer
from szpo.baselines.actor import Actor
from szpo.baselines.asking import Meter, OnStep, Trained, ignore_step
from szpo.baselines.recipes import SelfRewarding
from szpo.data import preference_files
from szpo.data.preference_formats import Pair, Preferences
from szpo.errors import RunError, StorageError, UsageError
from szpo.models import adapters, loading
from szpo.models.loading import Reader
from szpo.models.sampling import Sampling
from szpo.seeds import as_seed
from szpo.types import Answer, Prompt

METHOD = "self-rewarding"
RECORD = "record.json"

Judge: TypeAlias = Callable[[Sequence[Prompt], int, int], list[list[Answer]]]
"""(requests, judgements of each, seed) → texts of judgements."""

MAX_POINTS = 5.0
DEMANDS = (
    "it is about what was asked and says something of use, even if parts are missing",
    "it deals with most of what was asked, even if the matter is not settled",
    "it gives the person the basics of what they need",
    "it is written as a helpful assistant would write: direct, complete, well ordered",
    "it could not be better: expert, to the point, nothing that does not belong",
)
"""The demands for one point each, in this order."""
_SCORE = re.compile(
    r"\bscore\b[\s*_`\"'”“]*(?:is|of|:|=|-|–|—)?[\s*_`\"'<(\[”“]*"
    r"(?P<points>[+-]?\d+(?:\.\d+)?)(?![\d.]*\d)(?!\s*(?:[-+*x×–]|to)\s*\d)"
    r"(?:[\s*_`>)\]]*(?:/|out of)[\s*_`<(\[]*(?P<most>\d+))?",
    re.IGNORECASE,
)


def train(
    actor: Actor,
    prompts: Sequence[Prompt],
    examples: Sequence[tuple[Prompt, Answer]] = (),
    recipe: SelfRewarding | None = None,
    *,
    judge: Judge | None = None,
    folder: Path,
    seed: int,
    on_step: OnStep = ignore_step,
) -> Trained:
    """Make M0 … M3 in ``folder``; the actor then has the weights of the last one.

    ``judge``: None is the current model. Complete models in ``folder`` are not made again;
    ``on_step`` is called after these as well.
    """
    how = recipe or SelfRewarding()
    if not prompts:
        raise UsageError(f"{METHOD}: no prompts to answer")
    if judge is None:
        room = actor.sampling.max_new_tokens
        require_room(loading.reader_of(actor.loaded), prompts, room, how)
    settings = _describe(actor, prompts, examples, judge, how, seed)
    meter, log = Meter(), []
    for stage in range(how.models + 1):
        model = folder / f"M{stage}"
        if model.is_dir():
            record = _load(actor, model, settings)
        else:
            record = _make(actor, prompts, examples, judge, how, stage, model, settings)
        meter.tokens_generated += record["tokens_generated"]
        meter.seconds += record["seconds"]
        log.append({"model": float(stage), **record["figures"]})
        meter.report(on_step, stage, how.models, log[-1])
    pairs = sum(int(figures.get("pairs", 0)) for figures in log)
    ties = sum(int(figures.get("ties", 0)) for figures in log)
    return Trained(meter.cost(), tuple(log), pairs, ties)


def require_room(reader: Reader, prompts: Sequence[Prompt], new: int, how: SelfRewarding) -> None:
    """Refuse a model that cannot read a prompt with an answer of ``new`` tokens and judge it."""
    if how.models < 2:  # M1 judges nothing
        return
    longest = max(reader.tokens(request(prompt, "")) for prompt in prompts)
    if reader.over(need := longest + new + how.judge_tokens):
        raise UsageError(
            f"{METHOD}: model {reader.name} reads {reader.most:,} tokens, and the longest "
            f"judgement needs {need:,}: {longest:,} for the request, {new:,} for the answer, "
            f"{how.judge_tokens:,} for the judgement; shorten prompts, or lower judge_tokens or "
            "generation.max_new_tokens"
        )


def judge_candidates(
    actor: Actor,
    prompts: Sequence[Prompt],
    how: SelfRewarding,
    *,
    seed: int,
    judge: Judge | None = None,
    meter: Meter,
) -> list[JudgedAnswers]:
    """Draw candidates of the current actor, judged by itself or by ``judge``; trains nothing."""
    plain = actor.sampling
    answers = _speaker(actor, how, plain.max_new_tokens).sample(
        prompts, how.candidates, seed=as_seed(seeds.derive(seed, "self-rewarding candidates"))
    )
    meter.charge_tokens([answer for row in answers for answer in row])
    requests = [
        request(prompt, answer.text)
        for prompt, row in zip(prompts, answers, strict=True)
        for answer in row
    ]
    speaker = _speaker(actor, how, how.judge_tokens)
    ask: Judge = judge or (lambda asked, each, own: speaker.sample(asked, each, seed=own))
    key = seeds.derive(seed, "self-rewarding judge")
    judgements = ask(requests, how.judgements, as_seed(key))
    meter.charge_tokens([answer for row in judgements for answer in row])
    texts = (tuple(answer.text for answer in row) for row in judgements)
    return [
        JudgedAnswers(prompt, tuple(row), tuple(islice(texts, how.candidates)))
        for prompt, row in zip(prompts, answers, strict=True)
    ]


def _speaker(actor: Actor, how: SelfRewarding, tokens: int) -> Actor:
    """A copy of the current actor with the recipe's sampling."""
    sampling = Sampling(how.temperature, how.top_p, tokens)
    engine = actor.engine
    return Actor(actor.loaded, actor.sites, actor.theta(), sampling=sampling, engine=engine)


# --- one model ---


def _make(
    actor: Actor,
    prompts: Sequence[Prompt],
    examples: Sequence[tuple[Prompt, Answer]],
    judge: Judge | None,
    how: SelfRewarding,
    stage: int,
    folder: Path,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Make a model from the previous one, and its folder; returns the record."""
    seed = settings["seed"]
    own = as_seed(seeds.derive(seed, "self-rewarding", step=stage))
    meter, figures, judged = Meter(), dict[str, float](), None
    if stage == 1 and examples:
        fitted = trainer.train_sft(actor, examples, how.fit, seed=own, meter=meter)
        figures = {"examples": float(fitted.pairs), "loss": float(fitted.log[-1]["loss"])}
    elif stage > 1:
        with meter:
            first = (stage - 2) * how.prompts
            order = asking.draw_order(len(prompts), how.prompts, seed, first=first)
            asked = [prompts[i] for i in order]
            judged = judge_candidates(actor, asked, how, seed=own, judge=judge, meter=meter)
        figures = count(judged)
        _require_pairs(figures, stage)
        fitted = dpo.train(actor, Preferences(pairs(judged)), how.dpo, seed=own, meter=meter)
        figures = {**figures, "loss": float(fitted.log[-1]["loss"])}
    cost = meter.cost()
    record = {
        "settings": settings,
        "figures": figures,
        "tokens_generated": cost.tokens_generated,
        "seconds": cost.seconds,
        "theta_sha256": actor.digest(),
    }
    _write(actor, folder, record, judged)
    return record


def _require_pairs(figures: Mapping[str, float], stage: int) -> None:
    if not figures["pairs"]:
        share = figures["parsed"]
        why = (
            "no judgement had a score; the judge must be a model that follows instructions"
            if not share
            else f"all {figures['ties']:.0f} prompts were ties; draw more prompts or candidates"
        )
        raise RunError(
            f"{METHOD}: no pair for M{stage}: {share:.0%} of "
            f"{figures['judgements']:.0f} judgements had a score, and {why}"
        )


def _write(
    actor: Actor, folder: Path, record: dict[str, Any], judged: list[JudgedAnswers] | None
) -> None:
    """Write the folder of a model, completely or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.write_whole(folder) as draft:
        actor.save_adapter(draft)
        if judged is not None:
            preference_files.write(draft / "pairs.jsonl", pairs(judged))
            with (draft / "judged.jsonl").open("x", encoding="utf-8") as file:
                for one in judged:
                    line = {
                        "prompt": [list(turn) for turn in one.prompt.turns],
                        "completions": [answer.text for answer in one.answers],
                        "points": list(one.points),
                        "said": [list(texts) for texts in one.judgements],
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
        (draft / RECORD).write_text(text + "\n", encoding="utf-8")


def _load(actor: Actor, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Read the record of a finished model, and move the actor to its weights."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        before, digest = record["settings"], record["theta_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{folder} is no finished model of {METHOD} ({error}); remove it or choose another "
            "folder"
        ) from None
    differ = [name for name in settings if before.get(name) != settings[name]]
    if differ:
        raise UsageError(
            f"{folder} was made with other settings ({', '.join(differ)}); choose another folder"
        )
    actor.move_to(adapters.factors(adapters.read_adapter(folder), actor.sites))
    if actor.digest() != digest:
        raise StorageError(f"{folder}: the adapter is not the recorded one; remove the folder")
    return record


def _describe(
    actor: Actor,
    prompts: Sequence[Prompt],
    examples: Sequence[tuple[Prompt, Answer]],
    judge: Judge | None,
    how: SelfRewarding,
    seed: int,
) -> dict[str, Any]:
    """The settings that all models of a folder share, as JSON; ``models`` is not one of them."""
    shown = [[prompt.turns, answer.text, answer.end] for prompt, answer in examples]
    made = {
        "base": [actor.loaded.sha256, actor.loaded.dtype],
        "sites": [asdict(site) for site in actor.sites],
        "sampling": actor.sampling.facts(),
        "M0": actor.digest(),
        "prompts": _sha256([prompt.turns for prompt in prompts]),
        "examples": _sha256(shown) if shown else None,
        "judge": "the model itself" if judge is None else "given",
        "recipe": {k: v for k, v in how.model_dump().items() if k != "models"},
        "seed": seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(made))
    return plain


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def request(prompt: Prompt, answer: str) -> Prompt:
    """The request to the judge for one answer to a prompt.

    >>> request(Prompt.user("Hello?"), "Hi.").text.splitlines()[-1]
    'End with a line "Score: n", n from 0 to 5.'
    """
    asked = "\n\n".join(f"{role}: {words}" for role, words in prompt.turns)
    listed = "\n".join(f"- one point if {demand}" for demand in DEMANDS)
    return Prompt.user(
        f"Give points to an assistant's answer. They add up, at most {MAX_POINTS:g}:\n{listed}\n\n"
        f"<conversation>\n{asked}\n</conversation>\n<answer>\n{answer}\n</answer>\n\n"
        "First say in at most 100 words which points it earns and why. Do not answer the "
        f'conversation yourself.\nEnd with a line "Score: n", n from 0 to {MAX_POINTS:g}.'
    )


def score(text: str) -> float | None:
    """Read the points in a judge's text, 0 to 5; None if there are none or they are out of range.

    The last score counts, since judges end with theirs. Markup, words for the colon and "4/5" are
    understood; sums, ranges, other scales and numbers in words are not.

    >>> score("Relevant and clear. Score: 4")
    4.0
    >>> score("**Score**: 3.5/5"), score("Score: 9"), score("Four points.")
    (3.5, None, None)
    """
    *_, stated = None, *_SCORE.finditer(text)
    if stated is None:
        return None
    points, most = float(stated["points"]), float(stated["most"] or MAX_POINTS)
    return points if 0 <= points <= MAX_POINTS == most else None


def average(texts: Sequence[str]) -> float | None:
    """The mean of the readable scores; None if there are none."""
    known = [points for points in map(score, texts) if points is not None]
    return sum(known) / len(known) if known else None


def extremes(points: Sequence[float | None]) -> tuple[int, int] | None:
    """Indices of the best and the worst candidate; None if all are tied or without score.

    Of equal candidates the first is taken.

    >>> extremes([2.0, None, 4.5, 1.0])
    (2, 3)
    >>> extremes([3.0, 3.0, None]) is None
    True
    """
    known = {place: value for place, value in enumerate(points) if value is not None}
    if len(set(known.values())) < 2:
        return None
    return max(known, key=known.__getitem__), min(known, key=known.__getitem__)


@dataclass(frozen=True)
class JudgedAnswers:
    """A prompt's candidate answers with the texts of their judgements."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    judgements: tuple[tuple[str, ...], ...]
    """For each candidate the texts of its judgements."""

    @property
    def points(self) -> tuple[float | None, ...]:
        """Each candidate's mean score; None if no judgement had a score."""
        return tuple(average(texts) for texts in self.judgements)

    @property
    def pair(self) -> Pair | None:
        """The best and the worst answer; None for a tie or equal texts."""
        ends = extremes(self.points)
        if ends is None:
            return None
        best, worst = (self.answers[place] for place in ends)
        return None if best.text == worst.text else Pair(self.prompt, best, worst, "judge")


def pairs(judged: Sequence[JudgedAnswers]) -> tuple[Pair, ...]:
    """One pair for each prompt whose candidates differ in points."""
    return tuple(one.pair for one in judged if one.pair is not None)


def count(judged: Sequence[JudgedAnswers]) -> dict[str, float]:
    """Counts, the share of judgements with a score, and the mean score."""
    texts = [text for one in judged for own in one.judgements for text in own]
    read = [value for value in map(score, texts) if value is not None]
    kept = len(pairs(judged))
    return {
        "judgements": float(len(texts)),
        "parsed": len(read) / len(texts) if texts else 0.0,
        "points": sum(read) / len(read) if read else 0.0,
        "pairs": float(kept),
        "ties": float(len(judged) - kept),
    }
