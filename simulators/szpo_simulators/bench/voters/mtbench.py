"""`szpo bench mtbench --votes FILE`: fit the panels ``mtbench`` and ``close`` to human votes.

Items are split in halves by a named draw. The model is fitted to one half by maximum likelihood.
Its four statistics must lie in the 95 % bootstrap intervals over items of the other half, and
within .03 of those of all votes. The constants of the preset are those of a fit to all, rounded.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.table import Table
from scipy import optimize, special

from szpo.errors import UsageError
from szpo.seeds import bits, derive
from szpo.types import Floats, Ints
from szpo_simulators.panels import mtbench
from szpo_simulators.panels.mtbench import STATISTICS, Constants
from szpo_simulators.study import make_console, make_generator

CLOSE: Final = ("claude-v1/gpt-3.5-turbo", "claude-v1/gpt-4")
"""Pairs less than .8 logits apart: as close as perturbed policies are."""
TOLERANCE: Final = 0.03
RIDGE: Final = 0.01
"""Weight of Σθ² + s² + t² in the fit: too little to matter, enough to keep a small file finite."""
BOOTSTRAPS: Final = 2000

Items = Mapping[tuple[str, str, str], Ints]
"""(pair "a/b", question, turn) → votes for a, b, tie; a < b in the alphabet."""


def read_votes(path: Path) -> Items:
    """The votes by item, from JSON lines (gzip or not).

    A line has ``model_a``, ``model_b``, ``question_id``, ``turn`` and ``winner``: model_a, model_b
    or tie.

    Raises:
        UsageError: the file cannot be read, or a line is no vote.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"--votes {path}: cannot be read ({error})") from error
    found: dict[tuple[str, str, str], Ints] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for number, line in enumerate(text.splitlines(), 1):
        try:
            vote = json.loads(line)
            a, b = str(vote["model_a"]), str(vote["model_b"])
            answer = ("model_a", "model_b", "tie").index(vote["winner"])
            item = (str(vote["question_id"]), str(vote["turn"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--votes {path}, line {number}: no vote ({error})") from error
        if answer < 2 and a > b:
            answer = 1 - answer
        found["/".join(sorted((a, b))), *item][answer] += 1
    if not found:
        raise UsageError(f"--votes {path}: holds no votes")
    return dict(sorted(found.items()))


def split_items(items: Items) -> tuple[Items, Items]:
    """A training half and a held-out half, by the hash of each item: any order of lines."""

    def side(item: tuple[str, str, str]) -> bool:
        return int(bits(derive(0, "mtbench halves", name="/".join(item)), 1)[0]) % 2 == 1

    training = {item: counts for item, counts in items.items() if not side(item)}
    return training, {item: counts for item, counts in items.items() if item not in training}


def count_design(items: Items) -> dict[str, dict[str, int]]:
    """Number of items by pair and by votes of an item."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for (pair, _, _), counts in items.items():
        found[pair][str(counts.sum())] += 1
    return {pair: dict(sorted(votes.items())) for pair, votes in sorted(found.items())}


def measure_statistics(items: Items) -> Floats:
    """The four statistics (4,) of the votes."""
    return mtbench.ratios(mtbench.sums(np.stack(list(items.values()))).sum(0))


def bootstrap_intervals(items: Items, draws: int = BOOTSTRAPS) -> Floats:
    """95 % bootstrap intervals (2, 4) of the statistics, over items."""
    each = mtbench.sums(np.stack(list(items.values())))
    rng = make_generator(derive(0, "mtbench bootstrap"))
    picks = rng.multinomial(len(each), np.full(len(each), 1 / len(each)), size=draws)
    return np.asarray(np.quantile(mtbench.ratios(picks @ each), [0.025, 0.975], axis=0))


def fit(items: Items) -> Constants:
    """Maximum likelihood by Gauss–Hermite quadrature over the two item effects.

    Items of one pair with the same votes are one term.

    Raises:
        UsageError: the search did not end.
    """
    names = sorted({name for pair, _, _ in items for name in pair.split("/")})
    times = Counter((pair, *counts.tolist()) for (pair, _, _), counts in items.items())
    index = {name: i for i, name in enumerate(names)}
    first, second = (
        np.array([index[term[0].split("/")[side]] for term in times]) for side in (0, 1)
    )
    counts = np.array([term[1:] for term in times])
    often = np.array(list(times.values()))
    log_weight = np.log(mtbench.nodes()[1])

    def constants(free: Floats) -> Constants:
        theta = free[:-4] - free[:-4].mean()
        log_tie, lapse, item, tie = free[-4:]
        named = dict(zip(names, theta.tolist(), strict=True))
        return Constants(
            named, float(log_tie), float(special.expit(lapse)), abs(float(item)), abs(float(tie))
        )

    def loss(free: Floats) -> float:
        made = constants(free)
        theta = np.array(list(made.theta.values()))
        p = mtbench.shares(made.rater, theta[first] - theta[second])
        by_node = (counts * np.log(p)).sum(-1)
        likelihood = special.logsumexp(by_node + log_weight[:, None], axis=0)
        squares = float(theta @ theta) + made.item_spread**2 + made.tie_spread**2
        return RIDGE * squares - float(often @ likelihood)

    begin = mtbench.start(names)
    free = np.array(
        [*begin.theta.values(), begin.log_tie, special.logit(begin.lapse), begin.item_spread,
         begin.tie_spread]
    )  # fmt: skip
    found = optimize.minimize(loss, free, method="L-BFGS-B", options={"maxfun": 20_000})
    if not found.success:
        raise UsageError(f"bench mtbench: the fit did not end ({found.message})")
    return constants(found.x)


def round_constants(found: Constants, theta: int, rest: int) -> Constants:
    """Round to ``theta`` digits (those of θ) and ``rest`` digits: short to print and retype."""

    def short(value: float, digits: int) -> float:
        return float(f"{value:.{digits}g}") if abs(value) > 1e-4 else 0.0

    plain = {name: short(value, theta) for name, value in found.theta.items()}
    others = (found.log_tie, found.lapse, found.item_spread, found.tie_spread)
    return Constants(plain, *(short(value, rest) for value in others))


def compare_statistics(
    items: Items, held: Items, training: Constants, preset: Constants
) -> list[dict[str, Any]]:
    """Each statistic of the data and of the model, and whether the model's is near enough."""
    low, high = bootstrap_intervals(held)
    whole, half = measure_statistics(items), measure_statistics(held)
    on_held, on_all = (
        mtbench.expected_statistics(training, count_design(part)) for part in (held, items)
    )
    by_preset = mtbench.expected_statistics(preset, count_design(items))
    rows = []
    for i, name in enumerate(STATISTICS):
        near = max(abs(on_all[i] - whole[i]), abs(by_preset[i] - whole[i])) <= TOLERANCE
        rows.append(
            {"statistic": name, "all votes": whole[i], "held-out half": half[i], "low": low[i],
             "high": high[i], "model on the held-out half": on_held[i],
             "model on all": on_all[i], "preset on all": by_preset[i],
             "met": bool(low[i] <= on_held[i] <= high[i] and near)}
        )  # fmt: skip
    return [_short(row) for row in rows]


def compare_close(some: Items, model: Constants) -> dict[str, Any]:
    """People's votes on chatbots close to each other, beside the model fitted to these alone."""
    (low, high), whole = bootstrap_intervals(some), measure_statistics(some)
    by_model = mtbench.expected_statistics(model, count_design(some))
    rows = [
        {"statistic": name, "votes": whole[i], "low": low[i], "high": high[i],
         "model": by_model[i]}
        for i, name in enumerate(STATISTICS)
    ]  # fmt: skip
    sided = np.stack(
        [counts[:2] if _ahead(model, i[0]) else counts[1::-1] for i, counts in some.items()]
    ).sum(0)
    return {
        "items": len(some),
        "favourite": round(float(sided[0] / sided.sum()), 4),
        "table": [_short(row) for row in rows],
    }


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(float(v), 4) if isinstance(v, float) else v for k, v in row.items()}


def _ahead(constants: Constants, pair: str) -> bool:
    first, second = pair.split("/")
    return constants.theta[first] > constants.theta[second]


def make_report(items: Items) -> dict[str, Any]:
    """All that is committed: constants, design, tables, hash.

    Raises:
        UsageError: there are no votes on the chatbots that are close to each other.
    """
    some = {item: counts for item, counts in items.items() if item[0] in CLOSE}
    if not some:
        raise UsageError(f"bench mtbench: no votes on {' or '.join(CLOSE)}, which close needs")
    training, held = split_items(items)
    fitted, preset = round_constants(fit(training), 4, 4), round_constants(fit(items), 3, 2)
    near = round_constants(fit(some), 3, 2)
    body: dict[str, Any] = {
        "items": len(items),
        "votes": int(sum(counts.sum() for counts in items.values())),
        "constants": {
            "training": asdict(fitted),
            "preset": asdict(preset),
            "close": asdict(near),
        },
        "design": {"all": count_design(items), "held-out": count_design(held)},
        "table": compare_statistics(items, held, fitted, preset),
        "close": compare_close(some, near),
    }
    return body | {"sha256": mtbench.digest(body)}


def main(votes: Path | None = None, folder: Path = Path("runs/bench-mtbench")) -> dict[str, Any]:
    """Fit the panels mtbench and close to a file of human votes; without one, show the stored fit.

    Args:
        votes: Votes as JSON lines: model_a, model_b, question_id, turn, winner.
        folder: Where mtbench.json goes; what is committed lies in the package.
    """
    console = make_console()
    if votes is None:
        body = mtbench.load_committed()
    else:
        body = make_report(read_votes(votes))
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(body, indent=1, allow_nan=False)
        (folder / "mtbench.json").write_text(text + "\n", encoding="utf-8")
        same = body["sha256"] == mtbench.load_committed()["sha256"]
        console.print(f"{folder / 'mtbench.json'}: {'as' if same else 'not as'} committed")
    title = f"{body['votes']} votes on {body['items']} items; sha256 {body['sha256'][:12]}"
    console.print(make_table(body, title))
    for part, found in body["constants"].items():
        console.print(f"{part}: {json.dumps(found)}", markup=False)
    console.print(make_table(body["close"], f"{body['close']['items']} items of close chatbots"))
    console.print(f"their favourite wins {body['close']['favourite']} of the votes for a side")
    return body


def make_table(body: Mapping[str, Any], title: str) -> Table:
    """The table of statistics."""
    view = Table(title=title)
    heads: Sequence[str] = list(body["table"][0])
    for head in heads:
        view.add_column(head, justify="right")
    for row in body["table"]:
        view.add_row(*(str(row[head]) for head in heads))
    return view
