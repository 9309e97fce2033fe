"""What every published figure needs beside it: the machine, versions, date and command, and how busy others were.

    with recording("engine", versions) as result: ...      # writes benchmarks/results/engine.json

``foreign_cores`` is the CPU time that processes other than the benchmark and its children used, in cores: near 0 on a
quiet machine. Figures taken beside more than a few hundredths are not worth publishing.
"""

import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
_TICKS = os.sysconf("SC_CLK_TCK")


def versions(*packages: str) -> dict[str, str]:
    """Of the packages in this interpreter that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The CPU as the system names it, its caches, and the memory."""
    info = Path("/proc/cpuinfo").read_text()
    fields = dict(_named(line) for line in info.split("\n\n")[0].splitlines())
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [
            flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags
        ],
        "l2_kib_per_core": _cache_kib(2),
        "l3_kib": _cache_kib(3),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "virtual": "hypervisor" in flags,
    }


def _named(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _cache_kib(level: int) -> int | None:
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if (index / "level").read_text().strip() == str(level):
            return int((index / "size").read_text().strip().removesuffix("K"))
    return None


def core_seconds() -> list[float]:
    """Seconds that each core has been busy since the machine started."""
    lines = Path("/proc/stat").read_text().splitlines()
    cores = [line.split()[1:] for line in lines if line.startswith("cpu") and line[3].isdigit()]
    return [sum(float(core[at]) for at in (0, 1, 2, 5, 6)) / _TICKS for core in cores]


def process_seconds(pid: int) -> float:
    """CPU seconds of a process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _own_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _command(arguments: Sequence[str]) -> str:
    """What to type. Interpreters lie elsewhere on another machine: they are named by environment, peers/bin/python."""
    shown = [
        "/".join(Path(text).parts[-3:]) if text.endswith("/bin/python") else text for text in arguments[1:]
    ]
    return "python " + shlex.join([os.path.relpath(arguments[0]), *shown])


@contextmanager
def recording(name: str, packages: Mapping[str, str], folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """A document to fill, written when the benchmark is through. Children must have ended by then to be counted."""
    started, busy, own = time.perf_counter(), sum(core_seconds()), _own_seconds()
    document: dict[str, Any] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": _command(sys.argv),
        "machine": machine(),
        "versions": dict(packages),
    }
    yield document
    elapsed = time.perf_counter() - started
    document["seconds"] = round(elapsed, 1)
    document["foreign_cores"] = round(
        max(0.0, sum(core_seconds()) - busy - (_own_seconds() - own)) / elapsed, 3
    )
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(
        f"{path}: {document['seconds']} s, other processes used {document['foreign_cores']} cores",
        file=sys.stderr,
    )
