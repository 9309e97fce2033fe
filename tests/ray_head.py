"""A Ray cluster of one node, as a process of its own that lives as long as its standard input is open.

``run_ray`` starts one; ``python tests/ray_head.py`` is what it starts.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOGICAL_CPUS = 16
"""Replicas that fit, whatever the machine has."""


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A head that answered."""

    address: str
    environment: dict[str, str]
    """What members of the cluster need in theirs."""
    pid: int

    def replicas(self) -> list[int]:
        """The process ids of its Serve replicas."""
        return [pid for pid in _descendants(self.pid) if "ServeReplica" in _command(pid)]

    def kill_replica(self) -> int:
        """SIGKILL to one replica; its process id."""
        pid = self.replicas()[0]
        os.kill(pid, signal.SIGKILL)
        return pid


@contextmanager
def run_ray() -> Iterator[RayCluster]:
    """A cluster that asks for a token of its own and reports to nobody."""
    environment = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
    }
    head = subprocess.Popen(
        [sys.executable, __file__],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with head:
        assert head.stdin is not None
        assert head.stdout is not None
        address = head.stdout.readline().strip()
        try:
            assert address, "the Ray head did not start"
            yield RayCluster(address, environment, head.pid)
        finally:
            members = _descendants(head.pid)
            head.stdin.close()
            try:
                head.wait(30)
            except subprocess.TimeoutExpired:
                head.kill()
            for pid in members:  # what did not end with its head
                _kill(pid)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _kill(pid: int) -> None:
    if "ray" in _command(pid):
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    import ray

    ray.init(
        num_cpus=LOGICAL_CPUS,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
