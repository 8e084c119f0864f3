"""A policy of your own, in NumPy: it says "so" more or less often before it answers.

Its weights are two numbers z; szpo perturbs them, and moves them where the votes point. It is
registered as [project.entry-points."szpo.policies"] hesitant = "own_policy:Hesitant".
"""

from szpo.optim import parameters
from szpo.optim.sample_directions import Law
from szpo.types import Answer


class Hesitant:
    layout, dim = (("z", (2,)),), 2

    def __init__(self, root_seed):
        self.space = parameters.Space(root_seed, self.layout, Law.for_dim(self.dim))
        self.kept = parameters.zeros(self.layout)

    def rollout(self, prompts, shifts, *, seed):
        places = [parameters.shift(self.space, self.kept, shift)["z"] for shift in shifts]
        words = ["so " * max(0, round(40 + 5 * float(z[0]))) for z in places]
        return [
            tuple(Answer(f"{said}yes", tokens=said.count("so") + 1) for _ in asked)
            for said, asked in zip(words, prompts, strict=True)
        ]

    def apply(self, update):
        self.kept = parameters.apply_update(self.space, self.kept, update)

    def theta(self):
        return self.kept

    def digest(self):
        return parameters.digest(self.kept, self.layout)
