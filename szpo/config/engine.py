"""The settings table ``[engine]``: where answers are generated."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from szpo.config.section import Count, OneOf, Section
from szpo.outgoing import ENGINE_KEY, server_root

RAY_ROWS = 32
"""Default of `Engine.chunk_rows` for Ray's workers."""
VLLM_ROWS = 128
"""Default of `Engine.chunk_rows` for vLLM's servers, which batch requests themselves."""
Address = Annotated[str, Field(pattern=r"^https?://[^\s@?#/]+(/[^\s@?#]*)?$")]
GOES_WITH = {
    "ray": ("address", "workers", "gpus", "insecure_hosts"),
    "vllm": ("replicas", "adapters", "insecure_hosts"),
}
"""By kind of engine: the settings that not every kind has."""


class Engine(Section):
    """Where answers are generated: in this process, by workers, or by servers."""

    kind: Annotated[str, OneOf(("local", *GOES_WITH), "szpo.engines")] = Field(
        "local",
        description="local: in the run's own process; ray: by Ray workers (extra ray); vllm: by "
        "vLLM servers over HTTP (extra judge); or an engine of another package.",
    )
    address: str | None = Field(
        None,
        description="host:port of a Ray cluster; default: a cluster on this machine's own cores. "
        "Anyone who can reach a Ray cluster can run code on it.",
    )
    workers: int = Field(
        1, ge=1, le=4096, description="Number of workers; each has a whole model."
    )
    cpus: int = Field(1, ge=1, le=1024, description="Cores, and threads, per worker.")
    gpus: int = Field(0, ge=0, le=1, description="GPUs per worker: 0 or 1.")
    replicas: Annotated[list[Address], Field(min_length=1, max_length=4096)] | None = Field(
        None,
        description='Addresses of vLLM servers, such as ["http://localhost:8000"]; their key '
        f"belongs in ${ENGINE_KEY}, which is never stored.",
    )
    adapters: str | None = Field(
        None,
        description="Folder for adapter files that this process writes and the vLLM servers "
        "read, under the same path; default, if all servers are on this machine: a temporary "
        "folder.",
    )
    insecure_hosts: list[str] = Field(
        [],
        description="Hosts of other machines to which the key of vLLM servers, or the token of a "
        "Ray cluster, may go unencrypted.",
    )
    chunk_rows: Count | None = Field(
        None,
        description="Rows answered at once. Equal seeds give equal answers only with equal "
        "chunk_rows; the number of workers does not matter. Default: all of a step (local), 32 "
        "(ray), 128 (vllm).",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        for kind, names in GOES_WITH.items():
            for name in names:
                default = type(self).model_fields[name].default
                own = name in GOES_WITH.get(self.kind, ())
                if not own and getattr(self, name) != default:
                    raise ValueError(
                        f'{name} goes with engine.kind "{kind}"; engine.kind is "{self.kind}"'
                    )
        if self.kind == "vllm":
            if self.replicas is None:
                raise ValueError('replicas is missing; kind "vllm" needs the address of a server')
            if len(set(map(server_root, self.replicas))) < len(self.replicas):
                raise ValueError("replicas has an address twice; name each server once")
        return self

    @property
    def rows(self) -> int | None:
        """Rows in a chunk; None: all rows of a call."""
        default = {"ray": RAY_ROWS, "vllm": VLLM_ROWS}
        return default.get(self.kind) if self.chunk_rows is None else self.chunk_rows

    @property
    def is_local(self) -> bool:
        """Whether the run's own process holds the model, without workers or servers."""
        return self.kind not in GOES_WITH
