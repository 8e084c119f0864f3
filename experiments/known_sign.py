"""`known` and `sign` by verdicts on rows and on batches, on the tiny model, at equal reading.

    python experiments/known_sign.py tune FOLDER     # seeds 900 and 901
    python experiments/known_sign.py report FOLDER   # seeds 1000-1009, settings chosen by tune
    python experiments/known_sign.py table FOLDER    # tables/known-sign.csv, known-sign-read.csv

The plan was written before any cell but trials of the script on seeds 898 and 899 ran; its arms
that compare θ + μv with θ came later. The tiny model is trained on the machine that runs it, so
all arms of the table ran on one machine. Model, prompts and sampling are those of the preset tiny
(24 tokens, temperature 1), coordinates are eight score components of 128 answers (what
subspace.kind auto gives with so few), with a set-up of each seed's own. K = 1, M = 1, and the
same random numbers on both sides. One step is eight verdicts on pairs on a direction (rows), or
one or two verdicts on sets of eight (batches); with one verdict a step both rules are the same and
`known` runs for both. The panel is bt70, its β fitted to the kind of question: two panelists agree
on 70 % of pairs, or of sets, that differ. Rows with equal texts are not read; an arm stands at the
last step at which it has read no more than the look. Tastes: sentiment, and whether an answer
speaks in the first person.

α and μ are chosen among three of optimizer.kl_step times two of optimizer.kl_radius, the same for
all arms: for each rule, arm and taste the setting with the highest gain, mean over the looks at
640 and 1,920 answers and seeds 900 and 901 (902 was planned; 32 held-out prompts, four answers
each). That setting then runs on seeds 1000 to 1009, in this order, and is measured on 64 held-out
prompts, four answers each, against the base with the same random numbers. Reported: mean gain and
its 95 % bootstrap interval over seeds and prompts, KL at the answers drawn, the win rate over the
base's answers, and what the rows of the same rule and pairing are ahead by, paired by seed.

What is driven is the optimizer's own ask and tell, and the policy's own answers; many runs of a
seed answer in one batch, and no ledger is written.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from szpo import metrics, seeds
from szpo.config import settings_file
from szpo.config.schema import Config
from szpo.optim import optimizer, parameters
from szpo.optim.links import LINKS
from szpo.optim.optimizer import State
from szpo.optim.settings import Settings
from szpo.policies.backend import KL, AnswerRequest
from szpo.policies.lora_policy import LoraPolicy
from szpo.runs import assemble
from szpo.seeds import derive
from szpo.types import Answer, Floats, Prompt, Query, Tally, Theta
from szpo_simulators.panels import panel as panels
from szpo_simulators.panels import text_rewards
from szpo_simulators.study import write_csv
from szpo_simulators.summary import bootstrap

TASTES: Final = {"sentiment": "sentiment", "first person": r"regex:\b(I|my|me|I'm)\b"}
ARMS: Final = {
    "rows, N = 8": (8, 1, "antithetic"),
    "batches, N = 1": (1, 8, "antithetic"),
    "batches, N = 2": (2, 8, "antithetic"),
    "rows, N = 8, one-sided": (8, 1, "forward"),
    "batches, N = 1, one-sided": (1, 8, "forward"),
}
"""N, D and optimizer.pairing."""
RULES: Final = ("known", "sign")
LOOKS: Final = (640, 1920)
"""Answers read."""
RADII: Final = (0.8, 2.4)
STEPS: Final = (0.02, 0.06, 0.18)
SEEDS: Final = {"tune": range(900, 902), "report": range(1000, 1010)}
PROMPTS: Final = {"tune": 32, "report": 64}
"""Held-out prompts."""
SAMPLES: Final = 4
TOGETHER: Final = 8
"""Policies measured at once."""
TABLES: Final = Path(__file__).parent / "tables"


@dataclass
class Cell:
    """One run: a rule asks one taste in one way."""

    rule: str
    arm: str
    taste: str
    radius: float
    kl_step: float
    looks: Sequence[int]
    settings: Settings
    beta: float
    state: State
    theta: Theta
    read: int = 0
    votes: int = 0
    seen: dict[int, tuple[Theta, int, int, int]] = field(default_factory=dict)
    """At each look: θ, steps, votes, answers read."""

    @property
    def ended(self) -> bool:
        """Whether every look is taken."""
        return len(self.seen) == len(self.looks)


def load(seed: int, *sets: str) -> Config:
    """Settings of the preset tiny with these changes."""
    own = (f"run.seed={seed}", f"subspace.setup_seed={seed}", "subspace.dim=8", "run.votes=960",
           "subspace.samples=128")  # fmt: skip
    return settings_file.load(preset_name="tiny", sets=[*own, *sets])


class Bench:
    """A seed's set-up: the model, its coordinates, the panels; answers of many cells at once."""

    def __init__(self, seed: int):
        self.seed = seed
        parts = assemble.build(load(seed, "optimizer.rule=known"), say=lambda line: None)
        self.policy: LoraPolicy = parts.language
        self.train, self.heldout = parts.prompts.train, parts.prompts.heldout
        self.subspace = self.policy.subspace
        self.rewards = {name: text_rewards.parse(text) for name, text in TASTES.items()}
        self.encode = functools.cache(self.policy.encode)
        self.known: dict[tuple[str, str], float] = {}
        asked = self.train[: assemble.SHARPNESS_PROMPTS]
        drawn = self.policy.sample(asked, assemble.SHARPNESS_SAMPLES, seed=0)
        self.beta = {
            (taste, rows): panels.calibrate(
                np.array([self.score(taste, asked, row) for row in drawn]), rows, 0
            ).beta
            for taste in TASTES
            for rows in (1, 8)
        }  # fmt: skip

    def score(self, taste: str, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Floats:
        """The hidden reward of each answer; neither taste looks at the prompt."""
        new = {a.text: a for a in answers if (taste, a.text) not in self.known}
        values = text_rewards.scores(
            self.rewards[taste], list(prompts[:1]) * len(new), list(new.values())
        )
        self.known |= {(taste, text): float(v) for text, v in zip(new, values, strict=True)}
        return np.array([self.known[taste, a.text] for a in answers])

    def cell(
        self, rule: str, arm: str, taste: str, radius: float, kl_step: float, looks: Sequence[int]
    ) -> Cell:
        """A run before its first step."""
        n, d, pairing = ARMS[arm]
        config = load(
            self.seed, f"optimizer.rule={rule}", f"optimizer.N={n}",
            f"optimizer.pairing={pairing}", f"optimizer.kl_radius={radius}",
            f"optimizer.kl_step={kl_step}", f"optimizer.D={d}",
        )  # fmt: skip
        settings = config.optimizer_settings(self.subspace.layout, self.subspace.scale)
        return Cell(
            rule, arm, taste, radius, kl_step, looks, settings, self.beta[taste, d],
            optimizer.init(settings), self.policy.start(),
        )  # fmt: skip

    def answer(
        self, asked: Sequence[tuple[Theta, Sequence[Prompt], bytes, int]]
    ) -> list[list[Answer]]:
        """Answers of each (θ, prompts, key, first place in the key's stream)."""
        rows: list[tuple[int, int, int, int]] = []
        number: dict[Any, int] = {}
        keys: dict[bytes, int] = {}
        for member, (_, prompts, key, first) in enumerate(asked):
            for place, prompt in enumerate(prompts):
                ids = number.setdefault(self.encode(prompt), len(number))
                rows.append((ids, member, keys.setdefault(key, len(keys)), first + place))
        request = AnswerRequest(
            {}, (), tuple(number), tuple(keys), np.array(rows, np.int64), self.policy.sampling,
            thetas=tuple(theta for theta, *_ in asked),
        )  # fmt: skip
        self.tokens = self.policy.backend.answer(request)
        made = iter(self.policy.answer(tokens) for tokens in self.tokens)
        return [list(itertools.islice(made, len(prompts))) for _, prompts, *_ in asked]

    def drive(self, cells: Sequence[Cell]) -> None:
        """Drive all cells to their last look, one step of each at a time."""
        step = 0
        while running := [cell for cell in cells if not cell.ended]:
            queries, asked = [], []
            key = derive(self.seed, "rollout", step=step)
            for cell in running:
                query = optimizer.ask(cell.state)
                size = cell.settings.section.N * cell.settings.section.D
                prompts = [
                    self.train[i]
                    for i in seeds.endless_order(
                        len(self.train), size,
                        lambda lap: derive(self.seed, "prompts", step=lap),
                        first=step * size,
                    )
                ]  # fmt: skip
                for shift in query.shifts[0]:
                    theta = parameters.shift(cell.settings.space, cell.theta, shift)
                    asked.append((theta, prompts, key, 0))
                queries.append((query, prompts))
            answers = iter(self.answer(asked))
            for cell, (query, prompts) in zip(running, queries, strict=True):
                self.vote(cell, query, prompts, next(answers), next(answers))
            step += 1

    def vote(
        self, cell: Cell, query: Query, prompts: Sequence[Prompt], plus: list[Answer],
        minus: list[Answer],
    ) -> None:  # fmt: skip
        """One panelist's verdict on each comparison, and the step; looks are noted before it."""
        n, d, step = cell.settings.section.N, cell.settings.section.D, cell.state.step
        shape = (1, n, d)
        differ = np.array([a != b for a, b in zip(plus, minus, strict=True)]).reshape(shape)
        gap = self.score(cell.taste, prompts, plus) - self.score(cell.taste, prompts, minus)
        odds = LINKS["logistic"].prob(cell.beta * np.where(differ, gap.reshape(shape), 0).mean(-1))
        draws = seeds.uniform(derive(self.seed, "votes", step=step), n).reshape(1, n)
        identical = ~differ.any(-1)
        voted = ~identical
        tally = Tally(
            1.0 * (voted & (draws < odds)), 1.0 * (voted & (draws >= odds)),
            np.zeros((1, n)), identical,
        )  # fmt: skip
        read = 2 * int(differ.sum())
        for look in cell.looks:
            if look not in cell.seen and cell.read + read > look:
                cell.seen[look] = (cell.theta, step, cell.votes, cell.read)
        cell.state, updates, _ = optimizer.tell(cell.state, query, tally)
        for update in updates:
            cell.theta = parameters.apply_update(cell.settings.space, cell.theta, update)
        cell.read += read
        cell.votes += int(voted.sum())

    def measure(self, cells: Sequence[Cell], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """A row per cell and look: gain over the base's answers with the same random numbers."""
        repeated = [p for p in prompts for _ in range(SAMPLES)]
        key = derive(0, "held-out answers")
        base = self.answer([(self.policy.start(), repeated, key, 0)])[0]
        found = []
        points = [(cell, look) for cell in cells for look in cell.looks]
        ids = tuple(map(self.encode, prompts))
        for some in (points[i : i + TOGETHER] for i in range(0, len(points), TOGETHER)):
            thetas = [cell.seen[look][0] for cell, look in some]
            answers = self.answer([(theta, repeated, key, 0) for theta in thetas])
            owner = np.repeat(np.arange(len(some)), len(ids)).tolist()
            request = KL(ids * len(some), self.tokens[::SAMPLES], tuple(thetas), tuple(owner))
            kl = self.policy.backend.read(request).reshape(len(some), -1).mean(1)
            for (cell, look), given, nats in zip(some, answers, kl.tolist(), strict=True):
                was, now = (
                    self.score(cell.taste, repeated, each).reshape(-1, SAMPLES)
                    for each in (base, given)
                )
                _, steps, votes, read = cell.seen[look]
                found.append(
                    {"seed": self.seed, "taste": cell.taste, "rule": cell.rule, "arm": cell.arm,
                     "kl_radius": cell.radius, "kl_step": cell.kl_step, "look": look,
                     "steps": steps, "votes": votes, "read": read, "base": float(was.mean()),
                     "gains": (now.mean(1) - was.mean(1)).round(6).tolist(), "kl": nats,
                     "beta": cell.beta,
                     "win_rate": metrics.win_rate(metrics.versus(now, was)).value}
                )  # fmt: skip
        return found


def same(rule: str, arm: str) -> bool:
    """Not run: with one vote a step both rules move by one length, so it equals `known`."""
    return rule == "sign" and ARMS[arm][0] == 1


def tune(seed: int) -> list[dict[str, Any]]:
    """All settings of all arms on a seed."""
    bench = Bench(seed)
    cells = [
        bench.cell(*each, LOOKS)
        for each in itertools.product(RULES, ARMS, TASTES, RADII, STEPS)
        if not same(*each[:2])
    ]
    bench.drive(cells)
    return bench.measure(cells, bench.heldout[: PROMPTS["tune"]])


def choose(folder: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(κ, κ_step) of each rule, arm and taste: those of the highest gain over looks and seeds."""
    gains: dict[Any, list[float]] = {}
    for row in read(folder, "tune"):
        what = (row["rule"], row["arm"], row["taste"])
        gains.setdefault((what, (row["kl_radius"], row["kl_step"])), []).append(
            float(np.mean(row["gains"]))
        )
    chosen: dict[tuple[str, str, str], tuple[float, float]] = {}
    for what, setting in sorted(gains, key=lambda each: np.mean(gains[each])):
        chosen[what] = setting
    return chosen


def report(seed: int, folder: Path) -> list[dict[str, Any]]:
    """The chosen setting of each arm on a seed."""
    bench = Bench(seed)
    cells = [bench.cell(*what, *setting, LOOKS) for what, setting in choose(folder).items()]
    bench.drive(cells)
    return bench.measure(cells, bench.heldout[: PROMPTS["report"]])


def read(folder: Path, part: str) -> list[dict[str, Any]]:
    """The rows of all seeds of a part that ran."""
    files = [folder / f"{part}-{seed}.json" for seed in SEEDS[part]]
    return [row for file in files if file.exists() for row in json.loads(file.read_text())]


def interval(values: Floats) -> str:
    """The mean of values (seeds, prompts), and its 95 % bootstrap interval over both."""
    found = bootstrap(values)
    return f"{found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def table(folder: Path, head: Sequence[str]) -> None:
    """Write the table and the figure's points; ``head``: first lines (commit, machine, date)."""
    of: dict[Any, list[dict[str, Any]]] = {}
    for row in read(folder, "report"):
        what = tuple(row[name] for name in ("taste", "look", "rule", "arm"))
        of.setdefault(what, []).append(row)
    lines = []
    for taste, look, rule, arm in itertools.product(TASTES, LOOKS, RULES, ARMS):
        here = of[taste, look, "known" if same(rule, arm) else rule, arm]
        gains = np.array([row["gains"] for row in here])
        by_rows = "rows, N = 8" + ", one-sided" * arm.endswith("one-sided")
        ahead = np.array([row["gains"] for row in of[taste, look, rule, by_rows]]) - gains
        mean = {name: np.mean([r[name] for r in here]) for name in ("votes", "win_rate", "kl")}
        lines.append(
            {"taste": taste, "rule": rule, "asks": arm, "answers read": f"{look:,}",
             "votes": f"{mean['votes']:.0f}", "seeds": str(len(here)),
             "kl_radius, kl_step": f"{here[0]['kl_radius']:g}, {here[0]['kl_step']:g}",
             "gain": interval(gains), "win rate": f"{mean['win_rate']:.3f}",
             "KL": f"{mean['kl']:.1f}", "rows ahead by": interval(ahead) if ahead.any() else ""}
        )  # fmt: skip
    write_csv(TABLES / "known-sign.csv", lines, head)
    points = []
    for line in lines:
        if not same(line["rule"], line["asks"]):
            value, low, high = re.findall(r"[+-][.\d]+", line["gain"])
            one = ARMS[line["asks"]][0] == 1
            place = list(ARMS).index(line["asks"]) + 5 * (line["rule"] == "sign")
            points.append(
                {"x": "answers read (lines drawn apart)", "y": f"gain, {line['taste']}",
                 "line": f"{'either' if one else line['rule']}, {line['asks']}", "ask": "",
                 "at": int(line["answers read"].replace(",", "")) + 18 * place,
                 "value": value, "low": low,
                 "high": high}
            )  # fmt: skip
    write_csv(TABLES / "known-sign-read.csv", points, head)


def main() -> None:
    """Run a part, seed by seed, or write the table."""
    part, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    if part == "table":
        table(folder, sys.argv[3:])
        return
    for seed in SEEDS[part]:
        file = folder / f"{part}-{seed}.json"
        if not file.exists():
            began = time.time()
            rows = tune(seed) if part == "tune" else report(seed, folder)
            file.write_text(json.dumps(rows), encoding="utf-8")
            print(f"{part} {seed}: {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
