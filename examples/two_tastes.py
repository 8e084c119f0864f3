"""One run, two tastes: does each half of a panel prefer the adapter fitted to its own votes?

Eight simulated panelists give twenty votes each. All like cheerful answers; half like them
long, half like them short. `szpo taste --several` finds the halves, and `szpo export --cluster`
fits each.

    python examples/two_tastes.py 10     # that many seeds
"""

import sys
import tempfile
from pathlib import Path

from szpo import metrics
from szpo.cli.app import call
from szpo.cli.clusters import members_of
from szpo.errors import UsageError
from szpo.ledger.database import Ledger
from szpo.runs import assemble, other_weights
from szpo.types import Comparison, Row
from szpo_simulators.panels.raters import law

AGREED, APART, ROWS = "sentiment", "length", 8
SETTINGS = (
    f"panel.reward=1*feature:{AGREED}+.05*feature:{APART}",
    f"panel.kind=bt70+types=.5+other=1*feature:{AGREED}+-.05*feature:{APART}",
    "panel.size=8", "optimizer.D=8", "run.votes=160", "subspace.samples=128",
    "evaluation.prompts=1", "evaluation.samples=1",
)  # fmt: skip


def chance(members, judges, prompts, own, other):
    """How likely members prefer batches of ``own`` answers to the same prompts' ``other`` ones."""
    rows = [Row(p, a[0], b[0]) for p, a, b in zip(prompts, own, other, strict=True)]
    batches = [tuple(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
    asked = [Comparison(f"batch {n}", 0, 0, n, batch) for n, batch in enumerate(batches)]
    voters = [judges[int(name.split("-")[1])] for name in members]
    chances = [
        law(j.rater, j.other(c) if j.rater.taste else j.gap(c))[0] for j in voters for c in asked
    ]
    return float(sum(chances) / len(chances))


def measure(seed, folder):
    """Per half: the chance of preferring its own adapter to the other's, base's and run's."""
    sets = [word for text in (*SETTINGS, f"run.seed={seed}") for word in ("--set", text)]
    call(["run", "--preset", "tiny", "--folder", str(folder), *sets, "--set", f"run.name=s{seed}"])
    with Ledger.open(folder / f"s{seed}.db", readonly=True) as ledger:
        features = f"{AGREED},{APART}"
        parts = assemble.reopen(ledger, panel=False, say=lambda line: None)
        halves = [
            other_weights.fit_group(ledger, parts, k, features, members_of(ledger, features, k))
            for k in (1, 2)
        ]
        judges = assemble.with_recorded_panel(ledger, parts).panel.judges
    policy, prompts = parts.language, parts.prompts.heldout[:64]
    base = policy.sample(prompts, seed=seed, base=True)
    joint, drawn = policy.sample(prompts, seed=seed), []
    for half in halves:
        policy.move_to(half.theta)
        drawn.append(policy.sample(prompts, seed=seed))
    rows = []
    for half, own, other in zip(halves, drawn, drawn[::-1], strict=True):
        against = [
            chance(half.members, judges, prompts, own, each) for each in (other, base, joint)
        ]
        kl, _ = other_weights.measure(parts, half.theta, fitted=True)
        print(f"seed {seed}: {half.votes} votes, KL {kl:.1f}", *(f"{c:.2f}" for c in against))
        rows.append(against)
    return rows


def main(seeds):
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            try:
                found.append(measure(seed, Path(folder)))
            except UsageError as error:
                print(f"seed {seed}: {error}")
    if not found:
        sys.exit("no seed shows two tastes; give more seeds")
    for i, against in enumerate(("the other half's", "the base", "the run's own point")):
        means = metrics.mean([sum(half[i] for half in rows) / len(rows) for rows in found])
        ends = "" if means.low is None else f" [{means.low:.2f}, {means.high:.2f}]"
        print(f"its own against {against}: {means.value:.2f}{ends}")
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
