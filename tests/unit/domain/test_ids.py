"""Ids sort by time and never repeat, also across a fork."""

import subprocess
import sys

from vectoll.domain.ids import new_id


def test_ids_have_a_fixed_length_and_differ() -> None:
    ids = {new_id("req") for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {len(each) for each in ids} == {len("req_") + 32}


def test_forked_processes_do_not_share_their_ids() -> None:
    program = (
        "import os; from vectoll.domain.ids import new_id; new_id('x'); child = os.fork();"
        "os.write(1, new_id('x')[-20:].encode() + b'\\n'); child and os.waitpid(child, 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    first, second = done.stdout.split()
    assert first != second
