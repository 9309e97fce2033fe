"""A contestant in a process of its own: a script of ``peers/`` in another interpreter, a line of JSON each way."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PEERS = Path(__file__).with_name("peers")


class Worker:
    """Its first answer, what it is made of, is ``versions``. SystemExit when it ends by itself."""

    def __init__(self, python: str, script: str, arguments: Sequence[str], threads: int) -> None:
        environ = {
            **os.environ,
            **{f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS")},
            "RAYON_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "true",
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        }
        self._name = f"{script} {' '.join(arguments)}"
        self._process = subprocess.Popen(
            [python, str(PEERS / script), *arguments, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environ,
        )
        self.versions: dict[str, str] = self._answer()

    def ask(self, request: object) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} failed: is all that it needs in its interpreter?")
        return json.loads(line)

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()
