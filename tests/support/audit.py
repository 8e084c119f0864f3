"""Looks up known vulnerabilities of every installed library and prints a verdict.

Run: python tests/support/audit.py. The exit code is 1 if there is a vulnerability. If the advisory
database cannot be reached, the output says that nothing was audited and the exit code is 0: run it
again where the database can be reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def verdict(libraries: Sequence[Mapping[str, Any]], why: str = "") -> tuple[int, list[str]]:
    """Exit code and lines from pip-audit's list; ``why``: its error message if it gave no list.

    A library with a ``skip_reason`` was not audited, whatever pip-audit's own verdict says.
    """
    asked = [library for library in libraries if "vulns" in library]
    left = [library for library in libraries if "vulns" not in library]
    if not asked:
        reason = why or (str(left[0]["skip_reason"]) if left else "no library is listed")
        return 0, [
            f"NOT AUDITED: no library of {len(libraries)} could be looked up ({reason})",
            "ask again with: make audit, where the advisory database can be reached",
        ]
    holes = [
        f"HOLE: {library['name']} {library['version']}: {hole['id']}, repaired in "
        f"{', '.join(hole.get('fix_versions') or ['no version yet'])}"
        for library in asked
        for hole in library["vulns"]
    ]
    lines = [f"audited {len(asked)} of {len(libraries)} libraries: {len(holes)} known holes"]
    if left:
        lines.append(f"NOT AUDITED: {', '.join(str(library['name']) for library in left)}")
    return int(bool(holes)), [*holes, *lines]


def main() -> int:
    """Run pip-audit over this interpreter's libraries and print the verdict."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json",
         "--skip-editable"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    found = json.loads(done.stdout)["dependencies"] if done.stdout.strip() else []
    message = done.stderr.strip().splitlines()
    code, lines = verdict(found, "" if found else (message or ["pip-audit says nothing"])[-1])
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
