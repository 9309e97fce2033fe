"""A server that is told to end while it downloads a model."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from tests.hub_server import Hold, HubServer
from tests.live import COMMAND

CONFIG = """
drain_timeout_s = 1.0

[[models]]
id = "tiny"
repo = "owner/name"
pooling = "last"
dims = 32
max_tokens = 128
load = "first_use"
"""


def test_a_download_in_progress_does_not_keep_the_server_from_ending(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "vectoll.toml").write_text(CONFIG)
    held, released = threading.Event(), threading.Event()
    hub.file_faults.append(Hold(after=900, held=held, until=released))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VECTOLL_"))
    }
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "PYTHONUNBUFFERED": "1"}
    with (tmp_path / "out").open("wb") as out, (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [COMMAND, "serve", "--port", "0", "--data-dir", tmp_path / "data"],
            env=environment, cwd=tmp_path, stdout=out, stderr=log,
        )  # fmt: skip
    try:
        url, key = banner(tmp_path / "out")
        asking = threading.Thread(target=ask, args=(url, key))
        asking.start()
        assert held.wait(30), (tmp_path / "log").read_text()
        started = time.monotonic()
        server.send_signal(signal.SIGTERM)
        threading.Timer(3.0, released.set).start()  # the line moves again, long after the drain is over
        assert server.wait(20) == 0
        assert time.monotonic() - started < 15
        asking.join()
    finally:
        released.set()
        server.kill()
        server.wait()
    assert list((tmp_path / "hf").rglob("*.partial")), "what came is kept"
    log_text = (tmp_path / "log").read_text()
    assert "Traceback" not in log_text
    assert "/large/" not in log_text, "the real ones are signed"


def banner(out: Path) -> tuple[str, str]:
    """The server's address and its development key."""
    import re

    for _ in range(600):
        text = out.read_text()
        url, key = re.search(r"http://[\d.]+:\d+", text), re.search(r"vtk_[\w-]+", text)
        if url and key:
            return url.group(), key.group()
        threading.Event().wait(0.05)
    raise AssertionError("the server did not start")


def ask(url: str, key: str) -> None:
    import httpx

    answer = httpx.post(
        f"{url}/api/v1/embeddings",
        json={"model": "tiny", "input": "x"},
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert answer.status_code == 503, answer.text
