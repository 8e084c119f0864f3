"""Looks up known vulnerabilities of every installed library and prints a verdict.

Run: python tests/support/audit.py. The exit code is 1 if there is a vulnerability. If the advisory
database cannot be reached, the output says that nothing was audited and the exit code is 0: run it
again where the database can be reached.
"""

import json
import subprocess
import sys


def main() -> int:
    """Run pip-audit over this interpreter's libraries and print the verdict.

    A library without the key ``vulns`` was not audited, whatever pip-audit's own verdict says.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json",
         "--skip-editable"],
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    libraries = json.loads(done.stdout)["dependencies"] if done.stdout.strip() else []
    asked = [library for library in libraries if "vulns" in library]
    left = [str(library["name"]) for library in libraries if "vulns" not in library]
    if not asked:
        stated = [str(each["skip_reason"]) for each in libraries] or done.stderr.splitlines()
        print(f"NOT AUDITED ({[*stated, 'no list'][0]}); ask again where the database is reached")
        return 0
    holes = [
        f"HOLE: {library['name']} {library['version']}: {hole['id']}, repaired in "
        f"{', '.join(hole.get('fix_versions') or ['no version yet'])}"
        for library in asked
        for hole in library["vulns"]
    ]
    print("\n".join([*holes, f"audited {len(asked)} libraries: {len(holes)} known holes"]))
    if left:
        print(f"NOT AUDITED: {', '.join(left)}")
    return int(bool(holes))


if __name__ == "__main__":
    sys.exit(main())
