"""What the components of score vectors explain of seven rewards, from `setup_answers.py`'s files.

Run: python experiments/setup_table.py FOLDER. A basis is found as in a set-up (directions from one
half of the answers, whitening from the other) on n answers; R² is that of ridge
regression on its first d coordinates, cross-validated over prompts, on the last answers, which no
row's basis saw: the mean over bases of several sets of answers, where there are enough. Rewards
and coordinates are centred within prompts.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from setup_answers import is_at
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from szpo.policies import score_basis

REWARDS = {
    "sentiment": lambda t: SentimentIntensityAnalyzer().polarity_scores(t)["compound"],
    "no comma": lambda t: float("," not in t),
    "words": lambda t: float(len(t.split())),
    "question mark": lambda t: float("?" in t),
    "first person": lambda t: float(bool(re.search(r"\b(I|my|me|I'm)\b", t))),
    "word length": lambda t: float(np.mean([len(w) for w in t.split()] or [0])),
    "addresses reader": lambda t: float(bool(re.search(r"\b(you|your)\b", t, re.I))),
}
COLUMNS = (
    "down_proj:18-22",
    "down_proj:23-27",
    "down_proj:20-24",
    "down_proj:18-27",
    "down_proj:18-22+o_proj:18-22",
)
RIDGES = (1e-3, 0.03, 0.3, 1.0)
FOLDS = 5


@dataclass(frozen=True)
class Pool:
    scores: np.ndarray
    """(answers, weights), the answers' own."""
    drawn: np.ndarray
    """(answers from the first on, redraws, weights)."""
    rewards: dict[str, np.ndarray]
    groups: np.ndarray


def load(folder: Path, columns: str, *, redraws: bool) -> Pool:
    """The scores of MODULE:FIRST-LAST, several joined by +."""
    own, drawn, groups, texts = [], [], [], []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as part:
            keep, at = [], 0
            for name, outputs in json.loads(str(part["sites"])):
                if any(is_at(name, sites) for sites in columns.split("+")):
                    keep.append(np.arange(at, at + outputs))
                at += outputs
            found = part["scores"][:, :, np.concatenate(keep)].astype(np.float32)
            own.append(found[:, 0])
            if redraws and found.shape[1] > 1:
                drawn.append(found[:, 1:])
            groups.append(part["groups"])
            texts += json.loads(str(part["texts"]))
    rewards = {name: np.array([f(t) for t in texts]) for name, f in REWARDS.items()}
    again = np.concatenate(drawn) if drawn else np.zeros((0, 0, 0), np.float32)
    return Pool(np.concatenate(own), again, rewards, np.concatenate(groups))


def centre(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    place = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((place.max() + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    counts = np.bincount(place).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values - (sums / counts)[place])


def explain(pool: Pool, here: slice, basis: np.ndarray) -> dict[str, float]:
    """R² of each reward on the coordinates of these answers: best ridge, signed squared r."""
    groups = pool.groups[here]
    x, folds = centre(pool.scores[here] @ basis, groups), groups * 7919 % FOLDS
    found = {}
    for name, values in pool.rewards.items():
        y = centre(values[here], groups)
        best = -1.0
        for ridge in RIDGES:
            guess = np.zeros(len(y))
            for fold in range(FOLDS):
                seen = folds != fold
                gram = x[seen].T @ x[seen] + ridge * seen.sum() * np.eye(x.shape[1])
                guess[~seen] = x[~seen] @ np.linalg.solve(gram, x[seen].T @ y[seen])
            r = np.corrcoef(guess, y)[0, 1]
            best = max(best, float(np.sign(r) * r * r))
        found[name] = best
    return found


def find_basis(pool: Pool, here: slice, dim: int, redraws: int) -> np.ndarray:
    """The basis (weights, dim) that these answers give, with redraws of each."""
    rows = pool.scores[here, None]
    if redraws:
        rows = np.concatenate([rows, pool.drawn[here, :redraws]], 1)
    first = pool.groups[here] % 2 == 0
    flat = [rows[half].reshape(-1, rows.shape[-1]) for half in (first, ~first)]
    return score_basis.components([flat[0]], [flat[1]], dim)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--answers", type=int, nargs="+", default=[384, 1024, 2048, 3072])
    parser.add_argument("--redraws", type=int, nargs="+", default=[0, 1, 3])
    parser.add_argument("--repeats", type=int, default=5, help="sets of answers, none in two")
    parser.add_argument("--heldout", type=int, default=1024)
    parser.add_argument("--columns", nargs="+", default=COLUMNS, metavar="MODULE:FIRST-LAST")
    chosen = parser.parse_args()
    for where in chosen.columns:
        pool = load(chosen.folder, where, redraws=any(chosen.redraws))
        count = len(pool.groups)
        print(f"\n{where}: {count} answers, {pool.scores.shape[1]} weights")
        for n in (n for n in chosen.answers if n + chosen.heldout <= count):
            most = pool.drawn.shape[1] if n <= len(pool.drawn) else 0
            for redraws in (r for r in chosen.redraws if r <= most):
                left = (len(pool.drawn) if redraws else count - chosen.heldout) // n
                parts = [slice(n * i, n * (i + 1)) for i in range(min(left, chosen.repeats))]
                for d in chosen.dims:
                    bases = [find_basis(pool, here, d, redraws) for here in parts]
                    every = [explain(pool, slice(count - chosen.heldout, None), b) for b in bases]
                    shown = {k: round(float(np.mean([e[k] for e in every])), 3) for k in REWARDS}
                    print(
                        f"n {n} redraws {redraws} d {d:2}, {len(parts)} sets:", shown, flush=True
                    )


if __name__ == "__main__":
    main()
