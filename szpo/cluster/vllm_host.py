"""A run's model in this process, with servers that answer the policy's rows."""

from __future__ import annotations

from szpo.cluster import vllm_engine
from szpo.cluster.vllm_answers import VllmAnswers
from szpo.config.engine import Engine
from szpo.models.loading import Loaded
from szpo.policies.lora_policy import LoraPolicy
from szpo.policies.responder import LocalHost


class ServedHost(LocalHost):
    """A `LocalHost` that reads, scores and measures here; `serve` has rollouts answered elsewhere.

    The model in this process is also the one that rescores what servers answer.
    """

    def __init__(self, loaded: Loaded, engine: Engine, *, each_row: bool = False):
        """``engine`` names the servers, ``each_row`` rescores all rows; nothing is sent yet."""
        super().__init__(loaded)
        self._settings, self._each_row = engine, each_row
        self._answers: VllmAnswers | None = None

    def serve(self, policy: LoraPolicy) -> None:
        """Have the rows of a policy of this host answered by the servers; see `vllm_engine`.

        Raises:
            UsageError: See `vllm_engine.connect`.
            StorageError: The folder for adapters cannot be written.
        """
        self.close()
        self._answers = vllm_engine.connect(
            self._settings, policy.held, policy.responder, each_row=self._each_row
        )
        policy.answer_by(self._answers)

    def close(self) -> None:
        """See `Host.close`: gives up the servers and removes all files."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None
