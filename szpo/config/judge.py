"""The settings table ``[judge]``: which model judges, how it is asked, what follows a failure."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, model_validator

from szpo.config.section import Positive, Section

JUDGE_KEY: Final = "OPENAI_API_KEY"
"""Environment variable with the key of a judge's endpoint."""


class Judge(Section):
    """The judge: a language model or small scorer that votes where panel.kind is judge."""

    kind: Literal["local", "endpoint", "scorer"] = Field(
        "local",
        description="local: a transformers model on model.device; endpoint: any server that "
        "speaks OpenAI's chat completions; scorer: what szpo scorer trained.",
    )
    model: str = Field(
        "smollm2",
        min_length=1,
        description="A local model as model.name, the endpoint's name for one, or the scorer's "
        "file.",
    )
    ask: Literal["verdict", "grades", "soft"] = Field(
        "verdict",
        description="verdict: reasons, then A, B or tie; grades: each side alone, 1 to 5; "
        "soft: the log-probabilities of A and B, nothing is written.",
    )
    batches: Literal["whole", "rows"] = Field(
        "whole",
        description="All rows in one question, as people see them, or a question for each row and "
        "their majority (rows times the cost).",
    )
    conflict: Literal["tie", "debias"] = Field(
        "tie",
        description="Where the two orders disagree: a tie, or (soft) the mean of their logits, "
        "in which a position bias cancels.",
    )
    draw: bool = Field(
        False,
        description="soft, scorer: draw the vote with the probability found instead of taking "
        "the more probable side.",
    )
    principles: str | None = Field(
        None,
        description="Text file with one principle on each line; every question draws one. "
        "Default: panel.guideline.",
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
        description="Temperature of the judge's text; 0: most probable tokens.",
    )
    max_tokens: int = Field(
        256, ge=1, le=32_768, description="Longest text a judge may write for one question."
    )
    on_error: Literal["stop", "skip", "tie"] = Field(
        "stop",
        description="After the last try: stop the run (it can be resumed), or count a skip or "
        "a tie and continue.",
    )
    base_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s@?#]+$",
        description="The endpoint, such as http://localhost:8000/v1; its key belongs in "
        f"${JUDGE_KEY}, which is never stored.",
    )
    timeout_s: Positive = Field(60.0, le=3600, description="Longest wait for one reply, seconds.")
    concurrency: int = Field(
        4, ge=1, le=256, description="Comparisons that an endpoint judges in parallel."
    )

    @property
    def same_each_time(self) -> bool:
        """Whether it always gives the same answer, so that a second vote would add nothing."""
        return not (self.draw or self.principles or (self.temperature and self.ask != "soft"))

    @model_validator(mode="after")
    def _settings_fit_the_kind(self) -> Self:
        if self.kind == "endpoint" and self.base_url is None:
            raise ValueError("base_url is missing; an endpoint needs one")
        soft = self.ask == "soft" or self.kind == "scorer"
        if self.draw and not soft:
            raise ValueError('draw needs a probability: set ask to "soft", or kind to "scorer"')
        if self.conflict == "debias" and self.ask != "soft":
            raise ValueError('conflict "debias" needs log-probabilities: set ask to "soft"')
        if self.kind == "scorer" and (self.principles or self.references):
            raise ValueError("a scorer reads neither principles nor references; leave them out")
        return self
