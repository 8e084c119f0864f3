"""Ask the advisory database for known holes of every installed library, and say what came of it.

Run: python tests/support/audit.py. Exit code 1 where there is a hole. Where the database cannot be
asked nothing was audited, which is said, and is no finding: ask again from where it can be
reached.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def verdict(libraries: Sequence[Mapping[str, Any]], why: str = "") -> tuple[int, list[str]]:
    """Exit code and lines from pip-audit's list; ``why`` is what it said instead of one.

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
