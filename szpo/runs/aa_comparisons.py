"""A/A comparisons: both batches from the same policy, so that no answer is the right one.

What panelists answer to them shows side bias and how often they call a difference that is none.
They are made once, at the beginning of a people's run, and teach nothing.
"""

from __future__ import annotations

from szpo import seeds
from szpo.data.text_files import clean_prompt
from szpo.ledger.database import Ledger
from szpo.runs import samples
from szpo.runs.samples import Source
from szpo.types import Comparison, Row
from szpo.voting import calibration

COMPARISONS = 4


def make(ledger: Ledger, source: Source, count: int = COMPARISONS) -> bool:
    """Store ``count`` A/A comparisons of D training prompts each; False if there are some.

    Both sides are independent samples of the policy at the head; everything derives from the
    root seed, and no other draw of the run depends on it.
    """
    if calibration.has_aa(ledger):
        return False
    root, pool = ledger.root_seed, source.prompts.train
    key = seeds.derive(root, "aa prompts")  # the same permutation again where the prompts run out
    order = seeds.endless_order(len(pool), count * source.rows, lambda lap: key)
    asked = [pool[i] for i in order]
    plus, minus = (
        samples.answers(
            ledger, source, asked, until=None, seed=seeds.as_seed(seeds.derive(root, "aa", k=k))
        )[0]
        for k in (0, 1)
    )
    rows = [Row(clean_prompt(p), a, b) for p, a, b in zip(asked, plus, minus, strict=True)]
    parts = [tuple(rows[n * source.rows : (n + 1) * source.rows]) for n in range(count)]
    keys = [seeds.derive(root, "aa", name=str(n)) for n in range(count)]
    made = [
        Comparison(key.hex(), -1, 0, n, part, kind="aa")
        for n, (key, part) in enumerate(zip(keys, parts, strict=True))
    ]
    return calibration.create(ledger, made)
