"""What the components of score vectors explain of seven rewards, from `setup_answers.py`'s files.

Run: python experiments/setup_table.py FOLDER. A basis is found as in a set-up (directions from one
half of the answers, whitening from the other) on the first n answers; R² is that of ridge
regression on its first d coordinates, cross-validated over prompts, on answers that it never saw.
Rewards and coordinates are centred within prompts.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
COLUMNS = {
    "down 18-22": ("down_proj", range(18, 23)),
    "down 23-27": ("down_proj", range(23, 28)),
    "down + o 18-22": ("down_proj|o_proj", range(18, 23)),
}
RIDGES = (1e-3, 0.03, 0.3, 1.0)
FOLDS = 5


@dataclass(frozen=True)
class Pool:
    scores: np.ndarray
    """(answers, weights), the answers' own."""
    drawn: np.ndarray
    """(answers, redraws, weights)."""
    rewards: dict[str, np.ndarray]
    groups: np.ndarray

    def part(self, here: slice) -> Pool:
        rewards = {name: values[here] for name, values in self.rewards.items()}
        return Pool(self.scores[here], self.drawn[here], rewards, self.groups[here])


def load(folder: Path, columns: tuple[str, range]) -> Pool:
    every, groups, texts = [], [], []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as part:
            keep, at = [], 0
            for name, outputs in json.loads(str(part["sites"])):
                depth = int(re.search(r"\.(\d+)\.", name)[1])
                if re.search(columns[0], name) and depth in columns[1]:
                    keep.append(np.arange(at, at + outputs))
                at += outputs
            every.append(part["scores"][:, :, np.concatenate(keep)].astype(np.float32))
            groups.append(part["groups"])
            texts += json.loads(str(part["texts"]))
    found = np.concatenate(every)
    rewards = {name: np.array([f(t) for t in texts]) for name, f in REWARDS.items()}
    return Pool(found[:, 0], found[:, 1:], rewards, np.concatenate(groups))


def centre(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    place = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((place.max() + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    counts = np.bincount(place).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray(values - (sums / counts)[place])


def explain(pool: Pool, coordinates: np.ndarray) -> dict[str, float]:
    """R² of each reward on the coordinates (answers, d): best ridge, signed square correlation."""
    x, folds = centre(coordinates, pool.groups), pool.groups * 7919 % FOLDS
    found = {}
    for name, values in pool.rewards.items():
        y = centre(values, pool.groups)
        best = -1.0
        for ridge in RIDGES:
            guess = np.zeros(len(y))
            for fold in range(FOLDS):
                seen = folds != fold
                gram = x[seen].T @ x[seen] + ridge * seen.sum() * np.eye(x.shape[1])
                guess[~seen] = x[~seen] @ np.linalg.solve(gram, x[seen].T @ y[seen])
            r = np.corrcoef(guess, y)[0, 1]
            best = max(best, float(np.sign(r) * r * r))
        found[name] = round(best, 3)
    return found


def whiten(pool: Pool, n: int, dim: int, redraws: int) -> np.ndarray:
    """The basis (weights, dim) that the first n answers give, with redraws of each."""
    rows = np.concatenate([pool.scores[:n, None], pool.drawn[:n, :redraws]], 1)
    first = pool.groups[:n] % 2 == 0
    flat = [rows[half].reshape(-1, rows.shape[-1]) for half in (first, ~first)]
    return score_basis.components([flat[0]], [flat[1]], dim)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--answers", type=int, nargs="+", default=[384, 1024, 2048])
    chosen = parser.parse_args()
    for where, columns in COLUMNS.items():
        pool = load(chosen.folder, columns)
        print(f"\n{where}: {len(pool.groups)} answers, {pool.scores.shape[1]} weights")
        for n in chosen.answers:
            if n + 256 > len(pool.groups):
                continue
            other = pool.part(slice(n, None))
            for redraws in range(pool.drawn.shape[1] + 1):
                whole = whiten(pool, n, max(chosen.dims), redraws)
                for d in chosen.dims:
                    basis = whiten(pool, n, d, redraws) if d != max(chosen.dims) else whole
                    found = explain(other, other.scores @ basis)
                    print(f"n {n} redraws {redraws} d {d:2}:", found, flush=True)


if __name__ == "__main__":
    main()
