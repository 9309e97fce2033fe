"""Where a replica fits: the cores, memory and GPUs that Ray must find for it on one node."""

import math
from dataclasses import dataclass
from typing import Any

from vectoll.domain.errors import ConfigurationError
from vectoll.settings import ClusterSettings

PROCESS_BYTES = 512 * 2**20
"""A replica without weights: Python, Ray, the engine's libraries and its buffers."""
WEIGHTS_IN_MEMORY = 2
"""An engine packs weights while it reads them, so both are there for a moment."""
GPU_WORK_BYTES = 2 * 2**30
"""What a replica takes of a GPU besides its weights: the CUDA context and a batch's activations."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one replica takes of a node."""

    cpus: float
    gpus: float
    memory_bytes: int

    def actor_options(self) -> dict[str, Any]:
        """Serve's ``ray_actor_options``. Ray places by these numbers; it does not enforce them."""
        options: dict[str, Any] = {"num_cpus": self.cpus, "memory": self.memory_bytes}
        return options | ({"num_gpus": self.gpus} if self.gpus else {})


def needs_of(model: str, weights_bytes: int, cluster: ClusterSettings, *, on_gpu: bool) -> Needs:
    """What a replica of these weights takes. Raises ConfigurationError when it cannot fit any GPU as configured."""
    memory = PROCESS_BYTES + WEIGHTS_IN_MEMORY * weights_bytes
    return Needs(cluster.replica_cpus, _gpus(model, weights_bytes, cluster, on_gpu=on_gpu), memory)


def _gpus(model: str, weights_bytes: int, cluster: ClusterSettings, *, on_gpu: bool) -> float:
    if cluster.replica_gpus or not on_gpu:
        return cluster.replica_gpus
    if not cluster.gpu_memory_mib:
        return 1.0
    share = (weights_bytes + GPU_WORK_BYTES) / (cluster.gpu_memory_mib * 2**20)
    if share > 1:
        raise ConfigurationError(
            f"model {model!r} needs {share:.1f} times the memory that cluster.gpu_memory_mib gives a GPU"
        )
    return math.ceil(share * 100) / 100
