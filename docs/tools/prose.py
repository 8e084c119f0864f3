"""Measure how hard the pages are to read: words per sentence and reading ease, by page.

    python docs/tools/prose.py [PAGE ...]

Sentences of paragraphs and list items count; headings, tables, code blocks and HTML do not. Code
inside a sentence counts as one word. Reading ease is Flesch's (1948): 206.835 - 1.015 w - 84.6 s,
with w words per sentence and s syllables per word; syllables are groups of vowels, a silent final
e left out. Plain English scores 60 to 70.

The aim over all pages is a median of at most 16 words and a ninth decile of at most 28. ``BEFORE``
holds what this file measured before any page was rewritten for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
AIM = (16, 28)
"""Words of the median sentence and of the ninth decile that all pages together may have."""

BEFORE = {
    "README.md": (20, 36, 65),
    "SECURITY.md": (10, 24, 65),
    "CONTRIBUTING.md": (10, 22, 79),
    "docs/active.md": (19, 35, 67),
    "docs/api.md": (15, 27, 74),
    "docs/architecture.md": (12, 21, 79),
    "docs/bad-inputs.md": (17, 31, 73),
    "docs/baselines.md": (18, 40, 75),
    "docs/benchmarks.md": (15, 35, 75),
    "docs/compare.md": (20, 40, 71),
    "docs/costs.md": (14, 31, 80),
    "docs/decisions.md": (18, 41, 66),
    "docs/evaluators.md": (21, 32, 69),
    "docs/hardware.md": (14, 28, 78),
    "docs/judges.md": (18, 36, 75),
    "docs/operating.md": (18, 34, 72),
    "docs/panel-checks.md": (14, 27, 72),
    "docs/panel.md": (13, 30, 74),
    "docs/reliability.md": (16, 36, 74),
    "docs/scaling.md": (18, 46, 67),
    "docs/serve.md": (18, 35, 72),
    "docs/storage.md": (12, 28, 72),
    "docs/tastes.md": (20, 36, 65),
    "docs/visualize.md": (15, 26, 68),
    "docs/votes-as-data.md": (15, 24, 76),
    "docs/weighting.md": (20, 37, 72),
    "all": (17, 36, 72),
}
"""Median, ninth decile and reading ease of each page in November 2026, before its rewriting."""

END = re.compile(r"(?<=[.!?])[\"')\]*]*\s+(?=[\"'(\[]*[A-Z0-9θμ\x00])")
NO_END = re.compile(r"\b(e\.g|i\.e|cf|vs|Eq|Sec|Fig|No|et al)\.$")
BOX = re.compile(r"^(?:!!!|\?\?\?\+?|===) .*\n(?:\n|    .*\n)*", re.MULTILINE)
CODE = "\x00"
"""Stands for a piece of code inside a sentence."""


@dataclass(frozen=True)
class Prose:
    """The sentences of one page, or of several."""

    sentences: tuple[str, ...]

    @property
    def lengths(self) -> list[int]:
        """Words of each sentence."""
        return [len(words(sentence)) for sentence in self.sentences]

    def quantile(self, share: float) -> float:
        """Words of the sentence below which this share of all sentences lies."""
        return float(np.quantile(self.lengths, share)) if self.sentences else 0.0

    @property
    def reading_ease(self) -> float:
        """Flesch's reading ease; pieces of code are left out of its syllables."""
        plain = [word for text in self.sentences for word in words(text) if CODE not in word]
        if not plain:
            return 0.0
        per_sentence = sum(self.lengths) / len(self.sentences)
        return 206.835 - 1.015 * per_sentence - 84.6 * sum(map(syllables, plain)) / len(plain)


def words(sentence: str) -> list[str]:
    """Parts between spaces that hold a letter, a digit or code."""
    return [part for part in sentence.split() if re.search(r"\w|\x00", part)]


def syllables(word: str) -> int:
    """Groups of vowels, without a silent final e; at least one.

    >>> [syllables(word) for word in ("vote", "panel", "preference", "1024")]
    [1, 2, 3, 1]
    """
    letters = re.sub(r"(?<=[^aeiouyl])e$", "", word.lower().strip(".,;:!?()\"'*"))
    return max(1, len(re.findall(r"[aeiouy]+", letters)))


def sentences(text: str) -> Iterator[str]:
    """The sentences of one paragraph.

    >>> list(sentences("It runs, e.g. on two cores. Then it stops."))
    ['It runs, e.g. on two cores.', 'Then it stops.']
    """
    pending = ""
    for part in END.split(" ".join(text.split())):
        pending = f"{pending} {part}".strip()
        if not NO_END.search(pending):
            yield pending
            pending = ""
    if pending:
        yield pending


def unboxed(text: str) -> str:
    """The page with its boxes (``!!! note``) and tabs written as plain paragraphs."""

    def inside(box: re.Match[str]) -> str:
        return "\n" + re.sub(r"^    ", "", box[0].partition("\n")[2], flags=re.MULTILINE) + "\n"

    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^::: .*\n(?:    .*\n)*", "", BOX.sub(inside, text), flags=re.MULTILINE)


def read(text: str) -> Prose:
    """Every sentence of a page's paragraphs and list items."""
    tokens = MarkdownIt("commonmark").enable("table").parse(unboxed(text))
    found: list[str] = []
    for before, token in pairwise(tokens):
        if before.type != "paragraph_open" or token.type != "inline":
            continue
        parts = []
        for child in token.children or []:
            if child.type == "text":
                parts.append(child.content)
            elif child.type == "code_inline":
                parts.append(CODE)
            elif child.type in {"softbreak", "hardbreak"}:
                parts.append(" ")
        # A lone command or picture in a paragraph is no sentence.
        found += [each for each in sentences("".join(parts)) if words(each.replace(CODE, ""))]
    return Prose(tuple(found))


def pages() -> list[Path]:
    """Every page that people read, the change log left out."""
    own = [ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")]
    return own + sorted((ROOT / "docs").rglob("*.md"))


def together(paths: list[Path]) -> Prose:
    """All sentences of several pages."""
    found = [read(path.read_text(encoding="utf-8")) for path in paths]
    return Prose(tuple(text for page in found for text in page.sentences))


def table(paths: list[Path]) -> str:
    """One line a page and one for all: sentences, median, ninth decile, reading ease, before."""
    named = {path.relative_to(ROOT).as_posix(): [path] for path in paths}
    lines = [f"{'page':34}{'sentences':>10}{'median':>8}{'9th decile':>12}{'ease':>6}   before"]
    for name, of_name in {**named, "all": paths}.items():
        page = together(of_name)
        before = BEFORE.get(name, ()) if name in named or paths == pages() else ()
        lines.append(
            f"{name:34}{len(page.sentences):>10}{page.quantile(0.5):>8.0f}"
            f"{page.quantile(0.9):>12.0f}{page.reading_ease:>6.0f}   "
            f"{' '.join(map(str, before)) or '-'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([Path(each).resolve() for each in sys.argv[1:]] or pages()))
