"""A taste: what votes say people like, as a value that scores any text without model or run.

The votes of a run on named features give explanations w with probabilities p. An answer y to a
prompt x is scored by how far it differs from what the start answers there,

    s_e = w_eᵀ (φ(y) − mean φ of the start's answers to x),

and φ may have one more number beside the named features: wᵀh, a direction of the hidden states of
one model, which no word of the dictionary says. What a policy gains is told *cautiously*: the mean
of s_e over the explanations less their standard deviation. It is *bounded*: each feature, and the
direction as one number, counts only within the values that were shown to those who voted. All
numbers are integers, so that a taste on file is the same everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Final, Protocol

import numpy as np

from szpo.errors import UsageError
from szpo.features import dictionary, differences, user_features
from szpo.features.dictionary import Entry
from szpo.optim.state_regression import GRID
from szpo.types import FEATURE_GRID, Answer, Floats, Prompt

FORMAT: Final = 1
MOST_EXPLANATIONS: Final = 64
MOST_BYTES: Final = 2**19
"""Largest file that is read."""
LONGEST: Final = 2_000
"""Most characters of a name or claim."""
WIDEST: Final = 2**14
"""Most dimensions of a direction of hidden states."""
LARGEST: Final = 2**40
"""Of any number in a taste."""
SHARED: Final = 3
"""Bounds are never narrower than what so many shown texts had; from so many people on, a taste is
not one of single persons."""
UNSAID: Final = "a direction of the hidden states, more than single words say"
LIKELY: Final = 0.5
"""Probability from which a claim belongs to the words of a taste."""


class ReadsStates(Protocol):
    """A policy that can read the hidden states of its start."""

    def mean_states(
        self, prompts: Sequence[Prompt], answers: Sequence[Answer], layer: int
    ) -> Floats:
        """The mean of a layer's output over each answer's tokens, (answers, width)."""


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature that the taste is about; all numbers but the scale in 2⁻¹² spreads."""

    name: str
    scale: int
    """Its spread at the start, in units of 2⁻¹²."""
    low: int
    high: int
    """It counts within these values."""
    mean: int
    """Its mean over the shown texts: what an answer is compared with where the start's answers to
    the same prompt are not at hand."""


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction of one model's hidden states that the taste may be about.

    Its value is wᵀh/s, logits; h is the mean of a layer's output over an answer's tokens.
    """

    model: str
    """The digest of the model whose states they are."""
    name: str
    """How the run called that model."""
    layer: int
    """How many layers stand below the states."""
    scale: int
    """s, in units of 1/1024."""
    weights: tuple[int, ...]
    """w, in units of 2⁻¹² logits."""
    low: int
    high: int
    """It counts within these values, as all numbers below in units of 2⁻¹² logits."""
    mean: int
    """Its mean over the shown texts."""

    def require_model(self, sha256: str, name: str) -> None:
        """Refuse another model than the one whose hidden states it is of.

        Raises:
            UsageError: it is of another one's.
        """
        if self.model != sha256:
            raise UsageError(
                f"taste: it is about hidden states of {self.name}, and {name} is another model, "
                "or has other weights; use that model, or vote on this one"
            )

    def values(self, states: Floats) -> Floats:
        """Its value (n,) in units of 2⁻¹² logits of states (n, width), not bounded.

        Raises:
            UsageError: states of another width.
        """
        if states.ndim != 2 or states.shape[1] != len(self.weights):
            raise UsageError(
                f"taste: it is of {len(self.weights)} hidden states of {self.name}; got "
                f"{states.shape}"
            )
        return np.asarray(states @ np.array(self.weights, dtype=np.float64) * (GRID / self.scale))


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the votes may be about; no weights: nothing that has a name."""

    chance: int
    """Its probability, in units of 2⁻¹²."""
    weights: tuple[tuple[int, int], ...]
    """Place of a feature, and logits for one spread more of it, in units of 2⁻¹². The place after
    the last feature is the direction's, whose weight is 1 logit a logit."""


@dataclass(frozen=True, slots=True)
class Taste:
    """What votes say people like; see the module."""

    features: tuple[Feature, ...]
    explanations: tuple[Explanation, ...]
    claims: tuple[tuple[str, int], ...]
    """What is liked, in words, each with its probability in units of 2⁻¹²."""
    dictionary: str
    """Digest of the dictionary that counts the features."""
    own: tuple[tuple[str, ...], ...] = ()
    """The user's own features among them, as in `szpo.features.user_features.Description`."""
    verdicts: int = 0
    people: int = 0
    """Number of persons among those who gave them; the others are programs."""
    direction: Direction | None = None
    """What no named feature says; None: the taste is of named features alone."""
    called: str = ""
    """What a person calls the direction; empty: nobody has named it."""

    def __post_init__(self) -> None:
        names = [each.name for each in self.features]
        columns = len(names) + (self.direction is not None)
        if not columns or len({*names}) != len(names):
            raise UsageError("taste: its features must have different names")
        if not 0 < len(self.explanations) <= MOST_EXPLANATIONS:
            raise UsageError(f"taste: it must have 1 to {MOST_EXPLANATIONS} explanations")
        numbers = [n for f in self.features for n in (f.scale, f.low, f.high, f.mean)]
        numbers += [n for e in self.explanations for n in (e.chance, *chain(*e.weights))]
        numbers += [chance for _, chance in self.claims] + [self.verdicts, self.people]
        if (way := self.direction) is not None:
            numbers += [way.layer, way.scale, way.low, way.high, way.mean, *way.weights]
            if not 0 < len(way.weights) <= WIDEST or way.scale < 1 or way.low > way.high:
                raise UsageError(
                    f"taste: its direction needs 1 to {WIDEST} weights, a scale above 0 and "
                    "bounds in order"
                )
        if any(type(n) is not int or abs(n) > LARGEST for n in numbers):
            raise UsageError("taste: its numbers must be integers of at most 2^40")
        if self.verdicts < 0 or self.people < 0:
            raise UsageError("taste: its numbers of votes and people must be 0 or more")
        if any(f.scale < 1 or f.low > f.high for f in self.features):
            raise UsageError("taste: a feature's scale must be above 0 and its bounds in order")
        if any(e.chance < 1 for e in self.explanations):
            raise UsageError("taste: every explanation needs a probability above 0")
        for explanation in self.explanations:
            places = [place for place, _ in explanation.weights]
            if not all(0 <= place < columns for place in places):
                raise UsageError("taste: an explanation names a feature that is not there")
            if len({*places}) != len(places):
                raise UsageError("taste: an explanation names a feature twice")
        if any(len(each) != 5 for each in self.own):
            raise UsageError("taste: each of the user's own features needs five facts")

    @property
    def words(self) -> str:
        """What is liked, with probabilities.

        >>> made = Taste((Feature("commas", 1, 0, 1, 0),), (Explanation(4096, ((0, -1),)),),
        ...              (("fewer commas", 4000),), "")
        >>> made.words
        'fewer commas (98 %)'
        """
        likely = [(said, chance / FEATURE_GRID) for said, chance in self.claims]
        if self.unsaid >= LIKELY:
            likely.append((self.called or UNSAID, self.unsaid))
        if not likely:
            return "several things may be liked, none of them likely"
        return ", ".join(f"{said} ({100 * chance:.0f} %)" for said, chance in likely)

    @property
    def unsaid(self) -> float:
        """Probability that it is about the direction of hidden states; 0 without one."""
        last, every = len(self.features), sum(each.chance for each in self.explanations)
        own = (e.chance for e in self.explanations if any(at == last for at, _ in e.weights))
        return sum(own) / every

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON form."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def describes(self) -> str:
        """A sentence on the single persons whom it describes; empty: it is of programs or many."""
        if not 0 < self.people < SHARED:
            return ""
        who = "one person" if self.people == 1 else "two people"
        return f"this taste describes {who}: show or pass it on only if they agree"

    def instruction(self) -> str:
        """What is liked as one instruction for a system turn; empty where nothing is likely."""
        said = [said for said, _ in self.claims]
        said += [self.called] if self.called and self.unsaid >= LIKELY else []
        return f"Write answers that are liked here: {'; '.join(said)}." if said else ""

    def entries(self, given: Sequence[str] = ()) -> tuple[Entry, ...]:
        """What counts its features here; ``given``: the user's own ones that are code, anew.

        Raises:
            UsageError: another dictionary, or a feature of the user's own that is not given.
        """
        names = [feature.name for feature in self.features]
        entries = user_features.countable(names, self.own, self.dictionary, given)
        missing = next((name for name in names if name not in entries), None)
        if missing in {name for name, *_ in self.own}:
            raise UsageError(
                f"taste: its feature {missing!r} is the user's own, and a file never runs code; "
                f"give it again: --feature {missing!r}"
            )
        if missing is not None:
            raise UsageError(
                "taste: its features are of another version of the dictionary; use the szpo that "
                "made it"
            )
        return tuple(entries.values())

    def read(
        self, policy: ReadsStates, prompts: Sequence[Prompt], answers: Sequence[Answer],
        given: Sequence[str] = (), states: Floats | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """What `starts`, `score` and `gain` take of answers, with states where it needs any.

        ``states``: these, where they are known already.
        """
        way = self.direction
        if way is not None and states is None:
            states = policy.mean_states(prompts, answers, way.layer)
        return {
            "prompts": [prompt.text for prompt in prompts],
            "answers": [answer.text for answer in answers],
            "given": given,
            "states": None if way is None else states,
        }

    def require_model(self, sha256: str, name: str) -> None:
        """Refuse another model than the one whose hidden states the taste is about, if any."""
        if self.direction is not None:
            self.direction.require_model(sha256, name)

    def values(
        self, prompts: Sequence[str], answers: Sequence[str], given: Sequence[str] = (),
        states: Floats | None = None,
    ) -> Floats:  # fmt: skip
        """The features of answers (n, columns), bounded, in spreads; the direction comes last.

        ``states`` (n, width): the answers' hidden states, where the taste has a direction.

        Raises:
            UsageError: not as many prompts as answers, one text in place of a list, or no states.
        """
        if {type(prompts), type(answers)} & {str} or len(prompts) != len(answers):
            raise UsageError("taste: give a list of prompts and a list of as many answers")
        entries = self.entries(given)
        rows = [dictionary.ratios(*pair, entries) for pair in zip(prompts, answers, strict=True)]
        scales = [feature.scale for feature in self.features]
        spreads = np.array([[*map(in_spreads, row, scales)] for row in rows])
        spreads = spreads.reshape(len(rows), len(scales))
        if self.direction is not None:
            if states is None or len(states) != len(rows):
                raise UsageError(
                    f"taste: it is about hidden states of {self.direction.name}, which texts "
                    "alone do not show; give the states of each answer"
                )
            spreads = np.column_stack([spreads, self.direction.values(states)])
        low, high = (np.array([getattr(f, end) for f in self._columns]) for end in ("low", "high"))
        return np.asarray(np.clip(spreads, low, high) / FEATURE_GRID)

    @property
    def _columns(self) -> tuple[Feature | Direction, ...]:
        return self.features if self.direction is None else (*self.features, self.direction)

    def starts(
        self, prompts: Sequence[str], answers: Sequence[str], given: Sequence[str] = (),
        states: Floats | None = None,
    ) -> dict[str, Floats]:  # fmt: skip
        """The mean values (columns,) of the start's answers to each prompt; see `score`."""
        values = self.values(prompts, answers, given, states)
        asked = np.array(prompts, dtype=object)
        return {prompt: values[asked == prompt].mean(0) for prompt in dict.fromkeys(prompts)}

    def score(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        starts: Mapping[str, Floats] | None = None,
        given: Sequence[str] = (),
        states: Floats | None = None,
    ) -> Floats:
        """Scores of answers (n,), logits: the mean over the explanations.

        Their deviation, which is as large as the mean for single answers, is left to `gain`.

        Args:
            prompts: The prompt of each answer.
            answers: Their texts.
            starts: What `Taste.starts` gave for the start's answers; prompts without any are
                compared with the mean of the texts that were voted on.
            given: The user's own features that are code, anew.
            states: (n, width): the answers' hidden states, where the taste has a direction.
        """
        weights, chances = self._explained()
        return np.asarray(self._moved(prompts, answers, starts, given, states) @ weights @ chances)

    def gain(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        *,
        starts: Mapping[str, Floats] | None = None,
        given: Sequence[str] = (),
        states: Floats | None = None,
    ) -> float:
        """The lower value of how much more these answers are liked than the start's, together.

        The mean over the explanations less their deviation, of the answers' mean.
        """
        weights, chances = self._explained()
        each = self._moved(prompts, answers, starts, given, states).mean(0) @ weights
        mean = float(each @ chances)
        return mean - float(np.sqrt((each - mean) ** 2 @ chances))

    def _moved(
        self, prompts: Sequence[str], answers: Sequence[str],
        starts: Mapping[str, Floats] | None, given: Sequence[str], states: Floats | None,
    ) -> Floats:  # fmt: skip
        usual = np.array([each.mean for each in self._columns]) / FEATURE_GRID
        known = starts or {}
        centres = np.array([known.get(prompt, usual) for prompt in prompts])
        values = self.values(prompts, answers, given, states)
        moved = values - centres.reshape(-1, len(usual))
        return np.asarray(moved)

    @property
    def weights(self) -> Floats:
        """Expected weight of each named feature (features,), logits a spread."""
        weights, chances = self._explained()
        return np.asarray(weights @ chances)[: len(self.features)]

    @property
    def sizes(self) -> Floats:
        """Expected size of each named feature's weight (features,), logits a spread."""
        weights, chances = self._explained()
        return np.asarray(np.abs(weights) @ chances)[: len(self.features)]

    @property
    def along(self) -> float:
        """Expected size of what the direction adds, in logits: a quarter of its range."""
        if self.direction is None:
            return 0.0
        weights, chances = self._explained()
        wide = (self.direction.high - self.direction.low) / (4 * FEATURE_GRID)
        return float(np.abs(weights[-1]) @ chances) * wide

    def _explained(self) -> tuple[Floats, Floats]:
        """Weights (columns, explanations), logits a spread, and the explanations' chances."""
        weights = np.zeros((len(self._columns), len(self.explanations)))
        for e, explanation in enumerate(self.explanations):
            for place, weight in explanation.weights:
                weights[place, e] = weight / FEATURE_GRID
        chances = np.array([each.chance for each in self.explanations], dtype=np.float64)
        return weights, chances / chances.sum()

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **_: object
    ) -> list[float]:
        """The scores as a reward function of TRL's trainers; texts or lists of messages."""
        scores = self.score([*map(_last, prompts)], [*map(_last, completions)])
        return [float(each) for each in scores]

    def to_json(self) -> dict[str, Any]:
        """As JSON values: data only; see `from_json`."""
        body = json.loads(json.dumps(asdict(self)))
        return {"szpo_taste": FORMAT, **{k: v for k, v in body.items() if v or k != "called"}}

    @classmethod
    def from_json(cls, body: Any) -> Taste:
        """The taste from JSON values.

        Raises:
            UsageError: they are none.
        """
        if not isinstance(body, Mapping) or body.get("szpo_taste") != FORMAT:
            raise UsageError(f"it is no taste of szpo in format {FORMAT}; szpo taste writes them")
        try:
            return cls(
                tuple(
                    Feature(**{**each, "name": _text(each["name"])}) for each in body["features"]
                ),
                tuple(
                    Explanation(
                        _whole(each["chance"]),
                        tuple(
                            (_whole(place), _whole(weight)) for place, weight in each["weights"]
                        ),
                    )
                    for each in body["explanations"]
                ),
                tuple((_line(said), _chance(chance)) for said, chance in body["claims"]),
                _text(body["dictionary"]),
                tuple(tuple(map(_text, each)) for each in body["own"]),
                _whole(body["verdicts"]),
                _whole(body["people"]),
                _direction(body.get("direction")),
                _line(body.get("called", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the taste is damaged ({error})") from None


def bounds(values: Sequence[int]) -> tuple[int, int]:
    """The 2nd and 98th percentile of shown values, or wider: all that `SHARED` texts had.

    >>> bounds([0] * 97 + [5] * 3), bounds([0] * 98 + [5] * 2), bounds([1, 2])
    ((0, 5), (0, 0), (1, 2))
    """
    ordered = sorted(values)
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.02, 0.98))
    words, counts = np.unique(ordered, return_counts=True)
    shared = words[counts >= SHARED].tolist()
    return min([low, *shared]), max([high, *shared])


def in_spreads(ratio: tuple[int, int], scale: int) -> int:
    """A feature's value in units of 2⁻¹² of its spread, exact and rounded once."""
    return differences.difference([ratio], [(0, 1)], 1, scale)


def _direction(body: Any) -> Direction | None:
    if body is None:
        return None
    layer, scale, low, high, mean = (
        _whole(body[name]) for name in ("layer", "scale", "low", "high", "mean")
    )
    return Direction(
        _line(body["model"]), _line(body["name"]), layer, scale,
        tuple(map(_whole, body["weights"])), low, high, mean,
    )  # fmt: skip


def _last(text: Any) -> str:
    """The text, or that of the last message."""
    return str(text if isinstance(text, str) else text[-1]["content"])


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r:.60} is no integer")
    return value


def _chance(value: Any) -> int:
    if not 0 <= _whole(value) <= FEATURE_GRID:
        raise ValueError(f"{value} is no probability in units of 1/{FEATURE_GRID}")
    return int(value)


def _line(value: Any) -> str:
    if len(_text(value).splitlines()) > 1:
        raise ValueError(f"{value!r:.60} has more than one line")
    if len(value) > LONGEST:
        raise ValueError(f"{value[:60]!r} goes on for {len(value):,} characters")
    return str(value)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r:.60} is no text")
    value.encode()  # no lone surrogate, which nothing could print
    return value
