"""The settings table ``[judge]``: which model judges, how it is asked, and how failures count."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from szpo.config.section import Section
from szpo.outgoing import JUDGE_KEY


class Judge(Section):
    """The judge: a language model or small scorer that votes if panel.kind is judge."""

    kind: Literal["local", "endpoint", "scorer"] = Field(
        "local",
        description="local: a transformers model on model.device; endpoint: any server that "
        "speaks OpenAI's chat completions; scorer: a small scorer trained by szpo scorer.",
    )
    model: str = Field(
        "smollm2",
        min_length=1,
        description="A local model, as in model.name; the model's name at the endpoint; or the "
        "scorer's file.",
    )
    ask: Literal["verdict", "grades", "soft"] = Field(
        "verdict",
        description="verdict: the judge writes reasons, then A, B or tie; grades: it grades each "
        "side alone, 1 to 5; soft: it writes nothing; the log-probabilities of A and B count.",
    )
    decide: Literal["tie", "debias", "draw"] = Field(
        "tie",
        description="tie: the side that both orders of the sides name, otherwise a tie; with ask "
        "soft, debias: the mean of the orders' logits, in which position bias cancels; with ask "
        "soft or kind scorer, draw: a vote drawn with the probability found.",
    )
    principles: str | None = Field(
        None,
        description="Text file with one principle per line, of which each question uses a random "
        "one; default: panel.guideline.",
    )
    references: str | None = Field(
        None,
        description='JSONL file of {"prompt": …, "reference": …}: good answers that the '
        "judge sees.",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="Sampling temperature of the judge's text; 0: the most probable tokens.",
    )
    max_tokens: int = Field(
        256, ge=1, le=32_768, description="Longest text of a judge for one question, in tokens."
    )
    on_error: Literal["stop", "skip", "tie"] = Field(
        "stop",
        description="After the last failed try: stop the run (it can be resumed), or count a "
        "skip or a tie and continue.",
    )
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s@?#]+$",
        description="The endpoint, such as http://localhost:8000/v1; its key belongs in "
        f"${JUDGE_KEY}, which is never stored.",
    )
    insecure_hosts: list[str] = Field(
        [], description="The endpoint's host, if the key may go to another machine unencrypted."
    )

    @property
    def same_each_time(self) -> bool:
        """Whether the judge always gives the same answer, so that a second vote adds nothing."""
        free = self.temperature and self.ask != "soft"
        return not (self.decide == "draw" or self.principles or free)

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        if self.kind == "endpoint" and self.base_url is None:
            raise ValueError('base_url is missing; kind "endpoint" needs it')
        soft = self.ask == "soft" or self.kind == "scorer"
        if self.decide == "draw" and not soft:
            raise ValueError('decide "draw" needs a probability: ask "soft", or kind "scorer"')
        if self.decide == "debias" and self.ask != "soft":
            raise ValueError('decide "debias" needs log-probabilities: set ask to "soft"')
        if self.kind == "scorer" and (self.principles or self.references):
            raise ValueError('kind "scorer" reads no principles and no references; leave them out')
        return self
