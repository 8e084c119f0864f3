"""Rounds of questions from a pool: chosen, handed out as sheets, taken back.

Between rounds the state is one JSON file, written before the questions are: after an interruption,
run the same command again. No question is asked twice, an answer that is read again changes
nothing, and questions without an answer are handed out again before new ones.

Write questions into files for people to fill in, and read the answers back. .jsonl and .csv hold a
line per question with an empty ``choice``, which people fill in. .json holds Label Studio tasks
(ranker of two items), and its export holds the answers.

Pools of pairs (a prompt, two answers) are streamed from CSV, JSONL or Label Studio files, a line
at a time: memory does not grow with them (a .json array is read at once, and capped). Numeric
features may stand in the file itself: in CSV as columns ``a.NAME`` and ``b.NAME``, in JSON as
objects ``a_features`` and ``b_features``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from szpo import seeds
from szpo.analysis import posterior
from szpo.analysis.features import Feature
from szpo.analysis.posterior import BradleyTerry
from szpo.data import csv_tables, label_studio, preference_files, preference_formats, text_files
from szpo.errors import UsageError
from szpo.files import replace_whole
from szpo.ledger.canonical import utf8
from szpo.metrics import words
from szpo.types import Answer, Floats, Prompt

CHUNK = 2048
MATRIX_SUFFIX = ".npy"

VERSION = 1
SCALED_ON = 10_000
"""The scale of each feature is computed once, from the δ of about this many pairs."""
PARTICLES, STEPS = 200, 20
HEAD = ("id", "prompt", "a", "b", "choice", "by", "gain")
"""Columns of a sheet; `preference_formats.MESSAGES` is added where a prompt has several turns."""
Differences: TypeAlias = "Callable[[list[Pair]], Floats]"
"""A function from pairs to δ = φ(A) − φ(B), (pairs, features)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt; ``row`` is its index among the pairs of its file."""

    id: str
    prompt: Prompt
    a: str
    b: str
    row: int = 0
    values: tuple[dict[str, float], dict[str, float]] = ({}, {})
    """Features that the file gives, of A and of B."""

    @property
    def key(self) -> str:
        """The pair's identity, whichever answer stands first."""
        return pair_digest(self.prompt, *sorted((self.a, self.b)))


@dataclass(slots=True)
class Seen:
    """Counts of one pass over a pool: pairs, and pairs left out by reason."""

    pairs: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def read_pool(path: Path | str) -> Iterator[Pair]:
    """Yield a pool's pairs from .csv, .jsonl (also .gz) or .json; of a ranking task all pairs."""
    path = Path(path)
    row = 0
    for where, record in preference_files.read_records(path, ours=False):
        for pair in _pairs(record, where):
            yield Pair(pair.id, pair.prompt, pair.a, pair.b, row, pair.values)
            row += 1


def chunks(
    pairs: Iterable[Pair], plan: SelectionSettings, seen: Seen, asked: Container[str] = ()
) -> Iterator[list[Pair]]:
    """Yield the pairs that may be asked about, `CHUNK` at a time; counts go into ``seen``.

    ``asked``: ids and keys of pairs that were asked about.
    """

    def passing() -> Iterator[Pair]:
        for pair in pairs:
            seen.pairs += 1
            if (reason := plan.reason_against(pair, asked)) is None:
                yield pair
            else:
                seen.left_out[reason] += 1

    source = passing()
    while part := list(islice(source, CHUNK)):
        yield part


def differences_from_features(features: tuple[Feature, ...]) -> Differences:
    """Compute δ from named features of the texts (`szpo.analysis.features`)."""

    def of(pairs: list[Pair]) -> Floats:
        rows = [
            [
                _finite(f.score(p.prompt, Answer(p.a)), f.name, p)
                - _finite(f.score(p.prompt, Answer(p.b)), f.name, p)
                for f in features
            ]
            for p in pairs
        ]
        return np.array(rows, dtype=np.float64).reshape(len(pairs), len(features))

    return of


def differences_from_columns(names: tuple[str, ...]) -> Differences:
    """Compute δ from numbers in the pool's file itself."""

    def of(pairs: list[Pair]) -> Floats:
        rows = [[_value(p, 0, name) - _value(p, 1, name) for name in names] for p in pairs]
        return np.array(rows, dtype=np.float64).reshape(len(pairs), len(names))

    return of


def differences_from_matrix(path: Path) -> tuple[Differences, int]:
    """Read δ from a .npy of shape (pairs, d), or (pairs, 2, d) for A and B; return it with d.

    Row i belongs to pair i of the pool. The file is memory-mapped, since embeddings may be larger
    than memory.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"features {path}: {error}") from error
    if stored.ndim not in (2, 3) or (stored.ndim == 3 and stored.shape[1] != 2):
        raise UsageError(
            f"features {path}: shape {stored.shape}; (pairs, d) or (pairs, 2, d) is needed"
        )

    def of(pairs: list[Pair]) -> Floats:
        rows = [pair.row for pair in pairs]
        if rows and max(rows) >= len(stored):
            raise UsageError(
                f"features {path}: {len(stored)} rows, the pool has more pairs; give one each"
            )
        found = np.asarray(stored[rows], dtype=np.float64)
        delta = found if stored.ndim == 2 else found[:, 0] - found[:, 1]
        if not np.isfinite(delta).all():
            bad = pairs[int(np.flatnonzero(~np.isfinite(delta).all(1))[0])]
            raise UsageError(f"features {path}: row {bad.row} is not finite")
        return delta

    return of, int(stored.shape[-1])


def pair_digest(prompt: Prompt, *texts: str) -> str:
    """The id of a pair that has none of its own: 16 hexadecimal digits of its content."""
    body = json.dumps([prompt.turns, *texts], ensure_ascii=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


# ---- one record ----


def _pairs(record: Any, where: str) -> Iterator[Pair]:
    text_files.require_object(record, where, "a pair")
    if isinstance(record.get("data"), dict):
        yield from _task_pairs(record, where)
        return
    prompt = preference_formats.read_prompt(record, where)
    a, b = _text(record, "a", where), _text(record, "b", where)
    given = record.get("id")
    pair_id = pair_digest(prompt, a, b) if given in (None, "") else utf8(str(given))
    values = (_numbers(record, "a", where), _numbers(record, "b", where))
    yield Pair(pair_id, prompt, a, b, values=values)


def _task_pairs(record: dict[str, Any], where: str) -> Iterator[Pair]:
    data = record["data"]
    items = data.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UsageError(f"{where}: data needs items, a list of id, title and body")
    prompt = preference_formats.read_prompt(data, where)
    for first, second in combinations(items, 2):
        a, b = _text(first, "body", where), _text(second, "body", where)
        if record.get("id") is None:
            name = pair_digest(prompt, a, b)
        else:
            name = utf8(f"{record['id']}/{first.get('id')}/{second.get('id')}")
        yield Pair(name, prompt, a, b)


def _text(record: dict[str, Any], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{where}: needs {name}, the text of an answer")
    return utf8(value)


def _numbers(record: dict[str, Any], side: str, where: str) -> dict[str, float]:
    given = record.get(f"{side}_features")
    if given is None:
        given = {name[2:]: value for name, value in record.items() if name.startswith(f"{side}.")}
    if not isinstance(given, dict):
        raise UsageError(f"{where}: {side}_features must be an object of numbers by name")
    try:
        return {str(name): float(value) for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {side}_features: {error}") from error


def _value(pair: Pair, side: int, name: str) -> float:
    if name not in pair.values[side]:
        have = ", ".join(sorted(pair.values[side])) or "none"
        raise UsageError(
            f"pair {pair.id}: answer {'ab'[side]} has no number {name!r}; it has {have}"
        )
    return _finite(pair.values[side][name], name, pair)


def _finite(value: float, name: str, pair: Pair) -> float:
    if not math.isfinite(value):
        raise UsageError(f"pair {pair.id}: feature {name} is {value}; it must be finite")
    return value


@dataclass(frozen=True, slots=True)
class SelectionSettings:
    """Settings that stay the same over all rounds of a selection."""

    features: str
    names: tuple[str, ...]
    rule: posterior.By = "bald"
    tau: float = 1.0
    """Prior standard deviation of a weight, in logits per standard deviation of its δ."""
    seed: int = 0
    shortest: int = 1
    longest: int | None = None
    """``shortest`` and ``longest``: words of either answer."""

    def reason_against(self, pair: Pair, asked: Container[str] = ()) -> str | None:
        """Why a pair is left out, None if it is not; ``asked`` as for `chunks`."""
        if pair.id in asked or pair.key in asked:
            return "already asked"
        if pair.a == pair.b:
            return "two equal answers"
        sizes = len(words(pair.a)), len(words(pair.b))
        if min(sizes) < self.shortest:
            return "too short"
        if self.longest is not None and max(sizes) > self.longest:
            return "too long"
        return None


@dataclass(frozen=True, slots=True)
class Question:
    """A pair that was handed out: its texts, its δ over `State.scale`, its gain in nats."""

    id: str
    key: str
    round: int
    prompt: tuple[tuple[str, str], ...]
    a: str
    b: str
    delta: tuple[float, ...]
    gain: float


@dataclass(frozen=True, slots=True)
class Reply:
    """Somebody's answer to a question."""

    id: str
    choice: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a selection between rounds."""

    plan: SelectionSettings
    scale: tuple[float, ...] = ()
    questions: tuple[Question, ...] = ()
    replies: tuple[Reply, ...] = ()

    @property
    def waiting(self) -> tuple[Question, ...]:
        """Questions that nobody has answered."""
        answered = {reply.id for reply in self.replies}
        return tuple(q for q in self.questions if q.id not in answered)

    @property
    def posterior(self) -> BradleyTerry:
        """The posterior of the weights given the answers."""
        delta = {q.id: q.delta for q in self.questions}
        rows = np.array([delta[reply.id] for reply in self.replies], dtype=np.float64)
        choices: list[Any] = [reply.choice for reply in self.replies]
        return BradleyTerry.of(rows, choices, self.plan.tau, dim=len(self.plan.names))


@dataclass(frozen=True, slots=True)
class Round:
    """The result of `advance`: questions handed out, and figures for people."""

    state: State
    out: tuple[Question, ...]
    fresh: int
    """How many of ``out`` were not handed out before."""
    new_replies: int
    changed: int
    """How many earlier answers were changed by the person who gave them."""
    seen: Seen
    certain: bool
    before: float
    """Gaussian entropy of the prior, nats."""
    now: float
    """Gaussian entropy of the posterior after all answers so far, nats."""
    gain: float
    """Expected information of the fresh questions together, nats."""
    weights: tuple[tuple[str, float, float], ...] = field(default=())
    """Name, mean and standard deviation of each weight, in logits per unit of δ."""


def advance(
    state: State,
    path: Path,
    differences: Differences,
    *,
    count: int,
    replies: Iterable[Reply] = (),
) -> Round:
    """Add answers, then hand out ``count`` questions: unanswered ones first, then new ones."""
    if count < 1:
        raise UsageError(f"--count is {count}; ask for at least 1")
    state, new, changed = _add_replies(state, replies)
    waiting = state.waiting
    if not state.scale:
        state = replace(state, scale=_scale(path, differences, state.plan))
    target = state.posterior
    mode, covariance = target.laplace()
    before = posterior.entropy_of(np.eye(target.dim) * state.plan.tau**2)
    seen, certain = Seen(), True
    fresh: tuple[Question, ...] = ()
    if len(waiting) < count:
        fresh, certain = _choose(state, path, differences, count - len(waiting), seen)
        state = replace(state, questions=state.questions + fresh)
    return Round(
        state=state,
        out=(*waiting, *fresh)[:count],
        fresh=len(fresh),
        new_replies=new,
        changed=changed,
        seen=seen,
        certain=certain,
        before=before,
        now=posterior.entropy_of(covariance),
        gain=sum(q.gain for q in fresh),
        weights=tuple(
            zip(
                state.plan.names, mode.tolist(), np.sqrt(np.diag(covariance)).tolist(), strict=True
            )
        ),
    )


def _add_replies(state: State, replies: Iterable[Reply]) -> tuple[State, int, int]:
    """Add answers to the state; return it, the number of new ones, and that of changed ones."""
    asked = {q.id for q in state.questions}
    have = {(reply.id, reply.by): reply for reply in state.replies}
    new = changed = 0
    for reply in replies:
        if reply.id not in asked:
            raise UsageError(
                f"answers: {reply.id!r} was never asked; give the --state that it belongs to"
            )
        if reply.choice not in ("A", "B", "tie", "skip"):
            raise UsageError(
                f"answers: {reply.id}: {reply.choice!r} is unknown; give A, B, tie or skip"
            )
        before = have.get((reply.id, reply.by))
        new += before is None
        changed += before is not None and before.choice != reply.choice
        have[reply.id, reply.by] = reply
    return replace(state, replies=tuple(have.values())), new, changed


def _choose(
    state: State, path: Path, differences: Differences, count: int, seen: Seen
) -> tuple[tuple[Question, ...], bool]:
    """Choose new questions greedily among the best of one pass over the pool."""
    plan = state.plan
    number = 1 + max((q.round for q in state.questions), default=-1)
    key = seeds.derive(plan.seed, "select", step=number)
    cloud = posterior.spread(state.posterior, key=key, count=PARTICLES, steps=STEPS).x
    most = max(posterior.SHORTLIST, 4 * count)
    asked = {name for q in state.questions for name in (q.id, q.key)}
    best: list[tuple[float, int, Pair, Floats]] = []
    beyond = -np.inf
    for part in chunks(read_pool(path), plan, seen, asked):
        delta = _rescale(differences(part), state)
        flat = ~delta.any(1)
        seen.left_out["no difference in any feature"] += int(flat.sum())
        gain = posterior.gains(cloud, delta, plan.rule)
        best += [(-float(gain[i]), part[i].row, part[i], delta[i]) for i in np.flatnonzero(~flat)]
        best.sort(key=lambda one: one[:2])
        best = _drop_copies(best, seen)
        if len(best) > most:
            beyond = max(beyond, -best[most][0])
            del best[most:]
    if not seen.pairs:
        raise UsageError(f"{path} holds no pairs; there is nothing to choose from")
    if not best:
        return (), True
    delta = np.stack([one[3] for one in best])
    index, gains, certain = posterior.select_questions(
        cloud, delta, count, key=key, rule=plan.rule, beyond=beyond
    )
    found = tuple(
        Question(
            pair.id, pair.key, number, pair.prompt.turns, pair.a, pair.b,
            tuple(delta[i].tolist()), float(gain),
        )
        for i, gain in zip(index.tolist(), gains, strict=True)
        for pair in (best[i][2],)
    )  # fmt: skip
    return found, certain


def _drop_copies(
    best: list[tuple[float, int, Pair, Floats]], seen: Seen
) -> list[tuple[float, int, Pair, Floats]]:
    """Drop copies of a pair, by id and by content; the first of the file stays."""
    unique: list[tuple[float, int, Pair, Floats]] = []
    names: set[str] = set()
    for one in best:
        own = {one[2].id, one[2].key}
        if own & names:
            seen.left_out["a copy of another pair"] += 1
            continue
        names |= own
        unique.append(one)
    return unique


def _scale(path: Path, differences: Differences, plan: SelectionSettings) -> tuple[float, ...]:
    """Root mean square of each feature's δ over the first pairs; 1 where it never differs."""
    total, rows = np.zeros(len(plan.names)), 0
    for part in chunks(read_pool(path), plan, Seen()):
        delta = differences(part)
        total += (delta * delta).sum(0)
        rows += len(delta)
        if rows >= SCALED_ON:
            break
    size = np.sqrt(total / max(rows, 1))
    return tuple(np.where(size > 0, size, 1.0).tolist())


def _rescale(delta: Floats, state: State) -> Floats:
    if delta.shape[1] != len(state.scale):
        raise UsageError(
            f"features: the file has {delta.shape[1]}, this selection was begun with "
            f"{len(state.scale)} ({', '.join(state.plan.names)}); begin again with another --state"
        )
    return np.asarray(delta / np.array(state.scale))


# ---- the state's file ----


def save(state: State, path: Path) -> None:
    """Write the state; a process that dies meanwhile leaves the state before in the file."""
    body = {"version": VERSION, **dataclasses.asdict(state)}
    with replace_whole(path) as draft:
        draft.write_text(json.dumps(body, ensure_ascii=False), encoding="utf-8")


def load(path: Path) -> State:
    """Read a state that `save` wrote."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body.get("version") != VERSION:
            raise UsageError(f"{path}: version {body.get('version')}; this szpo reads {VERSION}")
        plan = body["plan"]
        found = State(
            plan=SelectionSettings(**{**plan, "names": tuple(plan["names"])}),
            scale=tuple(body["scale"]),
            questions=tuple(_question(q) for q in body["questions"]),
            replies=tuple(Reply(**reply) for reply in body["replies"]),
        )
        if any(len(each.delta) != len(found.plan.names) for each in found.questions):
            raise ValueError("a question lacks the number of a feature")
        return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not the state of a selection ({error}); give another --state"
        ) from error


def _question(body: Mapping[str, Any]) -> Question:
    turns: Sequence[Sequence[str]] = body["prompt"]
    prompt = tuple((role, text) for role, text in turns)
    return Question(**{**body, "prompt": prompt, "delta": tuple(body["delta"])})


def write_sheet(questions: Sequence[Question], path: Path) -> None:
    """Write a round's questions; an older file is replaced only once the new one is complete."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        text = "".join(json.dumps(_row(q), ensure_ascii=False) + "\n" for q in questions)
    elif kind == ".csv":
        file = io.StringIO(newline="")
        rows, several = [_row(q) for q in questions], preference_formats.MESSAGES
        names = [*HEAD, *[several] * any(several in row for row in rows)]
        for row in rows:
            row[several] = json.dumps(row[several], ensure_ascii=False) if several in row else ""
        csv_tables.write_table(file, names, rows)
        text = file.getvalue()
    elif kind == ".json":
        text = json.dumps([_task(q) for q in questions], ensure_ascii=False, indent=1)
    else:
        raise UsageError(f"{path.name}: questions are written as .jsonl, .csv or .json")
    with replace_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def read_sheet(path: Path) -> Iterator[Reply]:
    """Read answers from a filled-in sheet or Label Studio's export; empty choices are skipped."""
    for where, record in preference_files.read_records(path):
        text_files.require_object(record, where, "an answer")
        if isinstance(record.get("data"), dict):
            yield from _read_rankings(record, where)
            continue
        if record.get("id") in (None, ""):
            raise UsageError(f"{where}: needs id, that of the question")
        if choice := preference_formats.read_choice(record):
            yield Reply(str(record["id"]), choice, str(record.get("by") or "").strip())


def _row(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "prompt": Prompt(question.prompt).text,
        "a": question.a,
        "b": question.b,
        "choice": "",
        "by": "",
        "gain": round(question.gain, 6),
        **({preference_formats.MESSAGES: _turns(question)} if len(question.prompt) > 1 else {}),
    }


def _turns(question: Question) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in question.prompt]


def _task(question: Question) -> dict[str, Any]:
    items = [
        {"id": side, "title": f"Answer {side.upper()}", "body": text}
        for side, text in (("a", question.a), ("b", question.b))
    ]
    data = {"pair": question.id, "prompt": Prompt(question.prompt).text, "items": items}
    return {"data": {**data, "messages": _turns(question)}}


def _read_rankings(record: dict[str, Any], where: str) -> Iterator[Reply]:
    data, annotations = record["data"], record.get("annotations")
    if not isinstance(data.get("pair"), str):
        raise UsageError(f"{where}: data has no pair; is this an export of szpo select's tasks?")
    for number, annotation in enumerate(annotations if isinstance(annotations, list) else [], 1):
        if isinstance(annotation, dict) and annotation.get("result") == []:  # nobody answered
            continue
        found = label_studio.read_pairs({**record, "annotations": [annotation]}, where)
        by = str(annotation.get("completed_by", number))
        for pair in found.pairs:
            bodies = {str(item["id"]): item["body"] for item in data["items"]}
            yield Reply(data["pair"], "A" if pair.chosen.text == bodies.get("a") else "B", by)
