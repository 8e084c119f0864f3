r"""A small regular expression that takes bounded time on any text.

There is no backtracking: all states of Thompson's automaton (1968) advance together, and sets of
states that were seen are kept. So a character costs at most one pass over the states, whatever the
pattern. It has literals, ``.``, ``[a-z]``, ``\d \w \s \b`` and their opposites, ``^ $``, ``( )``,
``|``, ``* + ? {2,5}`` and the flags ``(?i)``, ``(?m)`` in front. Of several matches from one place
the longest counts. Letters are those of `szpo.features.reading`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias

from szpo.errors import UsageError
from szpo.features.reading import NO_LETTER, SMALL, SPACE

LONGEST_PATTERN: Final = 200
MOST_STATES: Final = 400
READS: Final = 4_000
"""Characters of a text that are read, from its start."""
LONGEST_MATCH: Final = 100
"""Characters of a match at most; a longer one counts as this much of it."""

Test: TypeAlias = Callable[[str], object]
"""Whether one character fits."""
Move: TypeAlias = tuple[Test | str | None, int]
"""A character's test, a place (``b B ^ $``) or nothing; and the state that it leads to."""

_CLASSES: Final = {
    "d": "[0-9]", "D": "[^0-9]", "s": f"[{SPACE}]", "S": f"[^{SPACE}]",
    "w": f"(?:_|[^{NO_LETTER}])", "W": f"(?!_)[{NO_LETTER}]", "n": "\n", "t": "\t", "r": "\r",
}  # fmt: skip
_QUANTIFIER: Final = re.compile(r"[*+?]|\{([0-9]{1,3})(,?)([0-9]{0,3})\}")
_CAPITAL: Final = {small: chr(large) for large, small in SMALL.items() if large != 0x2019}
_is_letter: Final = lru_cache(maxsize=4096)(re.compile(f"[^{NO_LETTER}]|_").match)


_Closed: TypeAlias = tuple[tuple[int, ...], bool, dict[str, frozenset[int]]]
"""States reachable without a character at one kind of place, whether a match may end there, and
the states after each character seen so far."""


class Pattern:
    """A compiled pattern; `count` is its number of matches."""

    def __init__(self, moves: list[list[Move]], start: int, end: int, lines: bool) -> None:
        self._moves, self._start, self._end, self._lines = moves, frozenset({start}), end, lines
        self._placed = any(isinstance(test, str) for each in moves for test, _ in each)
        self._known: dict[tuple[frozenset[int], str], _Closed] = {}

    def count(self, text: str) -> int:
        """Matches of at least one character that do not overlap, from left to right."""
        text = text[:READS]
        found = at = 0
        while at < len(text):
            length = self._match(text, at)
            found += length > 0
            at += max(length, 1)
        return found

    def _match(self, text: str, at: int) -> int:
        states, longest = self._start, 0
        for here in range(at, min(at + LONGEST_MATCH, len(text)) + 1):
            place = self._place(text, here) if self._placed else ""
            reached, accepts, after = self._close(states, place)
            if accepts:
                longest = here - at
            if not reached or here == len(text):
                break
            character = text[here]
            if character not in after:
                after[character] = frozenset(
                    to
                    for state in reached
                    for test, to in self._moves[state]
                    if callable(test) and test(character)
                )
            states = after[character]
        return longest

    def _place(self, text: str, here: int) -> str:
        before = text[here - 1] if here else ""
        after = text[here] if here < len(text) else ""
        first = not here or (self._lines and before == "\n")
        last = after == "" or (after == "\n" and (self._lines or here == len(text) - 1))
        edge = bool(before and _is_letter(before)) != bool(after and _is_letter(after))
        return ("b" if edge else "B") + "^" * first + "$" * last

    def _close(self, states: frozenset[int], place: str) -> _Closed:
        key = (states, place)
        if key not in self._known:
            if len(self._known) >= 5_000:
                self._known.clear()
            seen, waiting = set(states), list(states)
            while waiting:
                for test, to in self._moves[waiting.pop()]:
                    if to not in seen and (
                        test is None or (isinstance(test, str) and test in place)
                    ):
                        seen.add(to)
                        waiting.append(to)
            moving = (s for s in sorted(seen) if any(callable(t) for t, _ in self._moves[s]))
            self._known[key] = (tuple(moving), self._end in seen, {})
        return self._known[key]


def compile_pattern(text: str) -> Pattern:
    r"""Compile a pattern.

    >>> compile_pattern(r"(?i)\bsea(side)?\b").count("Sea, seaside, seas")
    2
    """
    if not 0 < len(text) <= LONGEST_PATTERN:
        raise UsageError(f"a pattern has 1 to {LONGEST_PATTERN} characters, this has {len(text)}")
    return _Compiler(text).pattern()


class _Compiler:
    """Reads a pattern from left to right; each part adds states and returns its end."""

    def __init__(self, text: str) -> None:
        flags = re.match(r"\(\?([im]+)\)", text)
        self.flags = flags.group(1) if flags else ""
        self.text, self.at = text, flags.end() if flags else 0
        self.moves: list[list[Move]] = [[]]

    def pattern(self) -> Pattern:
        end = self.alternatives(0)
        if self.at < len(self.text):
            raise self.error('a ")" without "("')
        return Pattern(self.moves, 0, end, "m" in self.flags)

    def error(self, what: str) -> UsageError:
        return UsageError(f"not a regular expression ({what} at character {self.at + 1})")

    def state(self) -> int:
        if len(self.moves) >= MOST_STATES:
            raise UsageError(
                f"the pattern needs more than {MOST_STATES} states; repeat less in it"
            )
        self.moves.append([])
        return len(self.moves) - 1

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def alternatives(self, start: int) -> int:
        end = self.state()
        while True:
            first = self.state()
            self.moves[start].append((None, first))
            self.moves[self.sequence(first)].append((None, end))
            if self.peek() != "|":
                return end
            self.at += 1

    def sequence(self, start: int) -> int:
        while self.peek() not in ("", "|", ")"):
            begun = self.at
            end = self.atom(start)
            least, most = self.quantifier()
            start = end if (least, most) == (1, 1) else self.repeat(start, begun, least, most)
        return start

    def repeat(self, start: int, begun: int, least: int, most: int | None) -> int:
        """The part that began there once more from ``start``, as often as it may come."""
        self.moves[start] = []  # what was read once to find its end
        after = self.at
        for _ in range(least):
            start = self.again(start, begun)
        end = self.state()
        self.moves[start].append((None, end))
        if most is None:
            loop = self.state()
            self.moves[start].append((None, loop))
            back = self.again(loop, begun)
            self.moves[back] += [(None, loop), (None, end)]
        for _ in range((most or least) - least):
            fresh = self.state()
            self.moves[start].append((None, fresh))
            start = self.again(fresh, begun)
            self.moves[start].append((None, end))
        self.at = after
        return end

    def again(self, start: int, begun: int) -> int:
        self.at = begun
        return self.atom(start)

    def quantifier(self) -> tuple[int, int | None]:
        found = _QUANTIFIER.match(self.text, self.at)
        if not found:
            return 1, 1
        self.at = found.end()
        if self.peek() in ("*", "+", "?"):
            raise self.error("two repetitions in a row")
        if found.group() in "*+?":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[found.group()]
        least, comma, most = int(found.group(1)), found.group(2), found.group(3)
        highest = int(most) if most else (None if comma else least)
        if highest is not None and highest < max(least, 1):
            raise self.error("a repetition from more to less, or of 0")
        return least, highest

    def atom(self, start: int) -> int:
        character = self.peek()
        self.at += 1
        if character == "(":
            if self.text.startswith("?:", self.at):
                self.at += 2
            elif self.peek() == "?":
                raise self.error("looking around and named groups are not to be had")
            end = self.alternatives(start)
            if self.peek() != ")":
                raise self.error('a ")" is missing')
            self.at += 1
            return end
        if character in "*+?":
            raise self.error("nothing to repeat")
        return self.step(start, self.test(character))

    def step(self, start: int, test: Test | str) -> int:
        end = self.state()
        self.moves[start].append((test, end))
        return end

    def test(self, character: str) -> Test | str:
        if character in "^$":
            return character
        if character == "\\" and self.peek() in ("b", "B"):
            self.at += 1
            return self.text[self.at - 1]
        if character == ".":
            return lambda c: c != "\n"
        fits = re.compile(self.members(character)).match
        if "i" not in self.flags:
            return fits
        return lambda c: fits(c) or fits(c.translate(SMALL)) or fits(_CAPITAL.get(ord(c), c))

    def members(self, character: str) -> str:
        """An expression for one character, in Python's notation."""
        if character == "[":
            return self.bracket()
        return self.escape() if character == "\\" else re.escape(character)

    def escape(self) -> str:
        kind = self.peek()
        self.at += 1
        if kind in _CLASSES:
            return _CLASSES[kind]
        if not kind or "0" <= kind <= "9" or "a" <= kind <= "z" or "A" <= kind <= "Z":
            raise self.error(f'"\\{kind}" is not to be had')
        return re.escape(kind)

    def bracket(self) -> str:
        """A class in square brackets as one that Python reads, built from checked parts."""
        negated = self.peek() == "^"
        self.at += negated
        parts: list[str] = []
        while self.peek() != "]" or not parts:
            if not self.peek():
                raise self.error('a "]" is missing')
            parts.append(self.range())
        self.at += 1
        body = "|".join(parts)
        return f"(?:(?!{body})[\\s\\S])" if negated else f"(?:{body})"

    def range(self) -> str:
        first = self.peek()
        self.at += 1
        if first == "\\":
            return self.escape()
        if self.peek() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", "", "\\"):
            return re.escape(first)
        last = self.text[self.at + 1]
        self.at += 2
        if last < first:
            raise self.error("a range from more to less")
        return f"[{re.escape(first)}-{re.escape(last)}]"
