"""Write docs/reference/settings.md from the settings of the code.

python docs/tools/settings_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

from szpo.config.schema import Config
from szpo.config.settings_file import SECTIONS, describe_key, presets, to_toml

PAGE = Path(__file__).parents[1] / "reference" / "settings.md"
HEAD = """\
# Settings

Every setting, with the default of a run that names neither preset nor file. `--set
section.key=value` changes one, `szpo init --all run.toml` writes every one, a preset (`--preset`)
changes several:

"""
TABLE = "| key | default | meaning |\n|---|---|---|\n"
LONG = 60
"""Characters from which on a default is not shown."""


def page() -> str:
    """Presets, then a table of keys for each section."""
    parts = [HEAD, *(f"- `{name}`: {said}\n" for name, said in presets().items())]
    written = to_toml(Config(), every=True)
    for section, keys in SECTIONS.items():
        parts.append(f"\n## `[{section}]`\n\n{TABLE}")
        for key in keys:
            meaning = describe_key(section, key).replace("|", r"\|").replace("<", "&lt;")
            parts.append(f"| `{key}` | {default(written, section, key)} | {meaning} |\n")
    return "".join(parts)


def default(written: str, section: str, key: str) -> str:
    """A key's default as a settings file has it; empty where none is written."""
    body = written.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
    found = re.search(rf"^{key} = (.+)$", body, re.MULTILINE)
    if not found:
        return ""
    return f"`{found[1]}`" if len(found[1]) < LONG else "a text"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
