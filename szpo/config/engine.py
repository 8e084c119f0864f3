"""The settings of where answers are generated."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from szpo.config.section import Count, OneOf, Positive, Section

ENGINE_KEY: Final = "VLLM_API_KEY"
"""Environment variable with the key of vLLM's servers."""
RAY_ROWS = 32
"""Rows of a chunk for Ray's workers, where the settings leave them out."""
VLLM_ROWS = 128
"""The same for vLLM's servers, which batch what they are asked at once."""
Address = Annotated[str, Field(pattern=r"^https?://[^\s@?#/]+(/[^\s@?#]*)?$")]
GOES_WITH = {
    "ray": ("address", "workers", "gpus"),
    "vllm": ("replicas", "adapters", "server_adapters", "insecure", "tolerance"),
}
"""Settings that only one kind of engine has."""


class Engine(Section):
    """Where answers are generated: in this process, by workers, or by servers."""

    kind: Annotated[str, OneOf(("local", *GOES_WITH), "szpo.engines")] = Field(
        "local",
        description="local: in the run's own process; ray: by Ray workers (extra ray); vllm: by "
        "vLLM servers over HTTP (extra http); or an engine of another package.",
    )
    address: str | None = Field(
        None,
        description="host:port of a Ray cluster; default: one of this machine's own cores. "
        "Anyone who reaches a Ray cluster can run code on it.",
    )
    workers: int = Field(1, ge=1, le=4096, description="Workers; each holds the whole model.")
    cpus: int = Field(1, ge=1, le=1024, description="Cores, and threads, of a worker.")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of a worker: 0 or 1.")
    replicas: Annotated[list[Address], Field(min_length=1, max_length=4096)] | None = Field(
        None,
        description='Addresses of vLLM servers, such as ["http://localhost:8000"]; their key '
        f"belongs in ${ENGINE_KEY}, which is never stored.",
    )
    adapters: str | None = Field(
        None,
        description="Folder for adapter files that this process writes and the vLLM servers "
        "read; default, where all of them are on this machine: a temporary one.",
    )
    server_adapters: str | None = Field(
        None, description="The same folder as the vLLM servers see it; default: the same path."
    )
    insecure: bool = Field(
        False, description="Send the key unencrypted to a vLLM server on another machine."
    )
    tolerance: Positive | None = Field(
        None,
        description="Mean difference per token, in nats, from which a vLLM server's "
        "log-probabilities are those of another adapter; default: by dtype.",
    )
    chunk_rows: Count | None = Field(
        None,
        description="Rows answered at a time; equal seeds give equal answers only with equal "
        "chunk_rows, while the number of workers does not matter. Default: all of "
        "a step (local), 32 (ray), 128 (vllm).",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        for kind, names in GOES_WITH.items():
            for name in names:
                default = type(self).model_fields[name].default
                if self.kind != kind and getattr(self, name) != default:
                    raise ValueError(
                        f'{name} goes with engine.kind "{kind}"; engine.kind is "{self.kind}"'
                    )
        if self.kind == "vllm":
            if self.replicas is None:
                raise ValueError("replicas is missing; engine.kind vllm needs an address or more")
            if len({address.rstrip("/") for address in self.replicas}) < len(self.replicas):
                raise ValueError("replicas names an address twice")
        return self

    @property
    def rows(self) -> int | None:
        """Rows of a chunk; None: all of a call."""
        default = {"ray": RAY_ROWS, "vllm": VLLM_ROWS}
        return default.get(self.kind) if self.chunk_rows is None else self.chunk_rows

    @property
    def is_local(self) -> bool:
        """Whether the run's own process holds the model: no workers, no servers."""
        return self.kind not in GOES_WITH
