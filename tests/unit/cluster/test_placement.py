"""What a replica takes of a node."""

import pytest

from vectoll.cluster.placement import GPU_WORK_BYTES, PROCESS_BYTES, needs_of
from vectoll.domain.errors import ConfigurationError
from vectoll.settings import ClusterSettings

GIB = 2**30


def test_memory_follows_the_weights() -> None:
    needs = needs_of("m", 3 * GIB, ClusterSettings(replica_cpus=2), on_gpu=False)
    assert (needs.cpus, needs.gpus, needs.memory_bytes) == (2, 0, PROCESS_BYTES + 6 * GIB)
    assert needs.actor_options() == {"num_cpus": 2, "memory": needs.memory_bytes}


@pytest.mark.parametrize(
    ("cluster", "gpus"),
    [
        (ClusterSettings(), 1.0),
        (ClusterSettings(gpu_memory_mib=80 * 1024), 0.13),
        (ClusterSettings(gpu_memory_mib=10 * 1024), 1.0),
        (ClusterSettings(replica_gpus=0.5, gpu_memory_mib=1), 0.5),
    ],
)
def test_gpu_share_follows_the_weights_unless_it_is_set(cluster: ClusterSettings, gpus: float) -> None:
    needs = needs_of("m", 8 * GIB, cluster, on_gpu=True)
    assert needs.gpus == gpus
    assert needs.actor_options()["num_gpus"] == gpus


def test_model_that_fits_no_gpu_is_refused() -> None:
    cluster = ClusterSettings(gpu_memory_mib=GPU_WORK_BYTES // 2**20)
    with pytest.raises(ConfigurationError, match=r"model 'm' needs 1\.5 times"):
        needs_of("m", GIB, cluster, on_gpu=True)
