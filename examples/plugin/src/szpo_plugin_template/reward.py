"""The reward ``ends:MARK``: 1 for an answer that ends with the mark, 0 for any other."""

from dataclasses import dataclass

from szpo.errors import UsageError


@dataclass(frozen=True)
class Ends:
    """What a simulated panel likes about an answer."""

    mark: str

    def score(self, prompt, answer):
        """A number; more is better."""
        return float(answer.text.rstrip().endswith(self.mark))


def ends(argument):
    """Make the reward from what follows the colon; None where there is none."""
    if not argument:
        raise UsageError("needs the mark that answers shall end with, as in ends:.")
    return Ends(argument)
