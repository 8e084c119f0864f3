"""An evaluator of your own: it prefers the batch with fewer words.

Anything with this one method is a judge. ``panel`` is what `szpo run` calls by name once a package
registers it: [project.entry-points."szpo.evaluators"] brief = "own_evaluator:panel".
"""

from types import SimpleNamespace


class Brief:
    def judge(self, comparison, *, panelist, plus_side, key):
        plus = sum(len(row.plus.text.split()) for row in comparison.rows)
        minus = sum(len(row.minus.text.split()) for row in comparison.rows)
        if plus == minus:
            return "tie"
        other_side = "B" if plus_side == "A" else "A"
        return plus_side if plus < minus else other_side


def panel(*, size=5, **settings):
    return SimpleNamespace(judges=(Brief(),) * size, spec={"panel": "brief"})
