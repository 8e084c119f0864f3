"""The panel `brief`: every panelist prefers the batch with fewer words."""

from types import SimpleNamespace


class Brief:
    """One panelist."""

    def judge(self, comparison, *, panelist, plus_side, key):
        """Answer A, B, tie or skip."""
        plus = sum(len(row.plus.text.split()) for row in comparison.rows)
        minus = sum(len(row.minus.text.split()) for row in comparison.rows)
        if plus == minus:
            return "tie"
        other_side = "B" if plus_side == "A" else "A"
        return plus_side if plus < minus else other_side


def panel(*, size, **settings):
    """Make the panel of a run; ``spec`` stands in the run's record."""
    return SimpleNamespace(judges=(Brief(),) * size, spec={"panel": "brief"})
