"""Records or reads runs of every rule, to compare two installations of the libraries.

    python tests/support/witness.py record FOLDER     drive the runs, one file each
    python tests/support/witness.py read FOLDER       verify and fold the runs in the folder

Prints JSON: the versions, and for each run the digests of votes and weights after each step. Needs
the libraries of `NEEDED`, as replaying a run does, but no torch.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from szpo.ledger.database import Ledger
from szpo.ledger.theta import recommended_digest
from szpo.optim import parameters
from szpo.replay import replay, verification
from tests.support.quadratic import (
    LAYOUT,
    WIDE,
    QuadraticPolicy,
    ValueJudge,
    go,
    history,
    new_ledger,
    panel_of,
    settings_of,
)

NEEDED = ("numpy", "scipy", "sqlite-utils", "pydantic", "lazy-loader")
"""Dependencies of szpo that are needed to replay a run."""

EXACT: dict[str, tuple[Any, dict[str, Any]]] = {
    "sign": (LAYOUT, {"rule": "sign", "M": 3}),
    "known": (LAYOUT, {"rule": "known", "M": 2}),
    "falling": (WIDE, {"rule": "sign", "horizon": 9.0, "narrows": True, "K": 2}),
}
"""Runs whose updates are recomputed from the votes to the last bit."""
CLOSE: dict[str, tuple[Any, dict[str, Any]]] = {
    "regression": (LAYOUT, {"rule": "regression", "M": 2}),
    "skill": (LAYOUT, {"M": 2, "weighting": "skill"}),
    "probit": (WIDE, {"rule": "known", "link": "probit", "alpha": 0.3, "warmup": 0}),
}
"""Runs whose updates are recomputed to 1e-9; weights add recorded updates, so these are exact."""
STEPS = 6


def record(folder: Path) -> dict[str, Any]:
    """Drive every run of the two tables; returns their histories by name."""
    folder.mkdir(exist_ok=True)
    found = {}
    for name, (layout, changes) in {**EXACT, **CLOSE}.items():
        settings = settings_of(layout, **{"N": 3, "D": 2, **changes})
        with new_ledger(folder / f"{name}.db", settings) as ledger:
            ledger.execute("PRAGMA synchronous=OFF")
            panel = panel_of(ledger, judge=ValueJudge(skips=0.1))
            go(settings, ledger, QuadraticPolicy(settings), panel, until_step=STEPS)
            found[name] = history(ledger)
    return found


def read(folder: Path) -> dict[str, Any]:
    """Verify every run of a folder and fold its updates; returns their histories by name."""
    found = {}
    for path in sorted(folder.glob("*.db")):
        with Ledger.open(path) as ledger:
            report = verification.verify(ledger)
            if not report.ok:
                raise SystemExit(f"{path.name}: {report}")
            theta = replay.fold(ledger)
            digest = parameters.digest(theta, ledger.layout, ledger.basis_sha256)
            if digest != recommended_digest(ledger):
                raise SystemExit(
                    f"{path.name}: the fold is {digest}, recorded {recommended_digest(ledger)}"
                )
            found[path.stem] = history(ledger)
    return found


if __name__ == "__main__":
    what = {"record": record, "read": read}[sys.argv[1]]
    versions = {name: version(name) for name in NEEDED}
    print(json.dumps({"versions": versions, "runs": what(Path(sys.argv[2]))}))
