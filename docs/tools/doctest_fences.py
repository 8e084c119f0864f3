"""Shows doctests of docstrings as code: Markdown would read their prompt as a quotation."""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The docstring with a fence around each doctest.

    >>> print(fenced("Add.\\n\\n>>> 1 + 1\\n2"))
    Add.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    """
    return DOCTEST.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


class DoctestFences(griffe.Extension):
    """Puts the fences where mkdocstrings reads a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the text of an object that has one."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
