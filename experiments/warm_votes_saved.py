"""How many votes a run saves or loses that begins with 300 old pairs: part W of the frontier.

Run: python experiments/warm_votes_saved.py [FOLDER]
FOLDER holds the cells of `szpo bench frontier` (default: experiments/frontier). The mean gain of
runs without pairs lies on straight lines through its checkpoints, from (0 votes, gain 0) on. Votes
saved are those at which that line reaches the gain of runs with pairs, less the votes that these
had; a minus says lost. Intervals resample seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from szpo.types import Floats
from szpo_simulators.bench.frontier import plan, summary
from szpo_simulators.compare.cell_store import CellStore

ROOT = Path(__file__).parents[1]
WARM = ("warm-like", "warm-opposite")
WITHOUT = (("cold", 24), ("sentiment", 56), ("sentiment", 120), ("sentiment", 240))
RESAMPLES = 4000


def votes_saved(without: Floats, gain: float, votes: int) -> float:
    """``without``: gains of runs without pairs at the votes of WITHOUT."""
    return float(np.interp(gain, [0, *without], [0, *(at for _, at in WITHOUT)])) - votes


def main(folder: Path) -> None:
    frozen = plan.read(ROOT / "experiments" / "frozen" / "frontier.toml")
    rows = summary.read_rows(frozen, CellStore(folder))
    seeds = frozen.group("cold-regression").seeds

    def gains(name: str, votes: int) -> Floats:
        label = f"{name}-regression"
        found = summary.checkpoint(rows[label], frozen.group(label), votes)
        by_seed = {row["seed"]: row["gain"] for row in found}
        return np.array([by_seed[seed] for seed in seeds])

    without = np.array([gains(*point) for point in WITHOUT])  # (checkpoints, seeds)
    draws = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
    print("| pairs | votes | gain | without | votes saved |")
    print("|---|---|---|---|---|")
    for name in WARM:
        votes_asked = summary.checkpoints_of(frozen.group(f"{name}-regression"))
        for votes, usual in zip(votes_asked, without, strict=False):
            ours = gains(name, votes)
            saved = votes_saved(without.mean(1), ours.mean(), votes)
            drawn = [votes_saved(without[:, d].mean(1), ours[d].mean(), votes) for d in draws]
            low, high = np.percentile(drawn, [2.5, 97.5])
            print(
                f"| {name} | {votes} | {ours.mean():+.3f} | {usual.mean():+.3f} "
                f"| {saved:+.0f} [{low:+.0f}, {high:+.0f}] |"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "experiments" / "frontier")
