"""The engine `counted`: transformers' own generation, with a count of rows and tokens."""

from dataclasses import dataclass, field

from szpo.models.local_engines import GenerateEngine


@dataclass
class Counted:
    """An engine over the run's model, which szpo has loaded and adapted."""

    adapted: object
    rows: int = 0
    tokens: int = 0
    inner: GenerateEngine = field(init=False)

    def __post_init__(self):
        self.inner = GenerateEngine(self.adapted)

    def generate(self, prompts, members, deltas, sampling, uniforms, *, canary=False):
        """Continue each prompt under its member; see `szpo.models.engine_contract.Engine`."""
        found = self.inner.generate(prompts, members, deltas, sampling, uniforms, canary=canary)
        self.rows += len(prompts)
        self.tokens += sum(map(len, found))
        return found

    def logprobs(self, prompts, completions, members, deltas, *, temperature=1.0):
        """Log-probability of each completion token under the row's member, in nats."""
        return self.inner.logprobs(prompts, completions, members, deltas, temperature=temperature)
