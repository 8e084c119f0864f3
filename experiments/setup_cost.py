"""The set-up of a run before and after a change: seconds, memory, and what its basis explains.

Run: python experiments/setup_cost.py --before COMMIT [--samples N] [--samples-after N]
[--kl-samples N] [--kl-samples-after N] [--rounds N] [--pool FOLDER].
Each set-up is a process of its own on SmolLM2 with the shipped prompts, those of the commit and of
this tree in turn. Seconds are the processor's, so that others on the machine disturb them least;
memory is the peak above the loaded model. With the answers of `setup_answers.py` in FOLDER, R² of
ridge regression of seven rewards on the basis's coordinates, cross-validated over prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
CHILD = """
import json, sys, time
import numpy as np
from pathlib import Path
from szpo.data.prompts import load_shipped
from szpo.models import loading
from szpo.policies.subspace_setup import set_up_subspace
from szpo.policies.subspaces import SetupSettings
loaded = loading.load("smollm2", device="cpu")
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(l for l in lines if l.startswith(name)).split()[1]) / 1024
Path("/proc/self/clear_refs").write_text("5")
began, before, spent, at = time.process_time(), status("VmRSS"), {}, [None, time.process_time()]
def progress(what, done, of):
    now = time.process_time()
    spent[what] = spent.get(what, 0) + now - at[1]
    at[1] = now
space = set_up_subspace(loaded, load_shipped().train, SetupSettings(samples=int(sys.argv[1]),
                        kl_samples=int(sys.argv[3])),
                        progress=progress)
seconds = time.process_time() - began
np.save(sys.argv[2], np.concatenate([v.reshape(-1, space.dim) for v in space.basis.values()]))
print(json.dumps({"seconds": seconds, "MB": status("VmHWM") - before, "parts": spent,
                  "KL ratio": space.report["raw_kl_ratio"],
                  "its error": space.report["raw_kl_ratio_stderr"]}))
"""


def run(tree: Path, samples: int, kl_samples: int, basis: Path) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(samples), str(basis), str(kl_samples)],
        env=environment, cwd=basis.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", required=True)
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--samples-after", type=int, help="of this tree; as many by default")
    parser.add_argument("--kl-samples", type=int, default=96)
    parser.add_argument("--kl-samples-after", type=int, help="of this tree; as many by default")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pool", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = folder / "old"
        old.mkdir()
        packed = subprocess.run(
            ["git", "-C", str(ROOT), "archive", chosen.before, "szpo"],
            capture_output=True, check=True,
        )  # fmt: skip
        subprocess.run(["tar", "-x", "-C", str(old)], input=packed.stdout, check=True)
        bases: dict[str, np.ndarray] = {}
        for i in range(chosen.rounds):
            for which, tree, samples, kl_samples in (
                ("before", old, chosen.samples, chosen.kl_samples),
                (
                    "after", ROOT, chosen.samples_after or chosen.samples,
                    chosen.kl_samples_after or chosen.kl_samples,
                ),
            ):  # fmt: skip
                file = folder / f"{which}.npy"
                found = run(tree, samples, kl_samples, file)
                print(i, which, json.dumps(found), flush=True)
                bases[which] = np.load(file)
    spans = [np.linalg.qr(basis.astype(np.float64))[0] for basis in bases.values()]
    cosines = np.linalg.svd(spans[0].T @ spans[1])[1]
    print("cosines between the spans:", cosines.round(4).tolist())
    if chosen.pool:
        import setup_table

        pool = setup_table.load(chosen.pool, setup_table.COLUMNS[0], redraws=False)
        for which, basis in bases.items():
            found = setup_table.explain(pool, slice(None), basis)
            print(which, {name: round(share, 3) for name, share in found.items()})


if __name__ == "__main__":
    main()
