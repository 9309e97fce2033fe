"""A transformers model as one would use it for speed, from token ids: ``large_models.py`` talks to it. Needs nothing of
vectoll.

    python benchmarks/peers/from_ids.py FOLDER DTYPE THREADS

Reads one JSON object per line, ``{"batch": [[id, …], …], "vectors": "cls", "last" or null}``, of sequences of one
length. Computes their last hidden states in batches of whichever of SIZES is fastest, and writes the seconds that took;
with ``vectors`` also the states of that token.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

SIZES = (1, 2, 4, 8, 16, 32)
Batch = Sequence[Sequence[int]]


def main() -> None:
    folder, dtype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    import torch
    import transformers

    torch.set_num_threads(threads)
    model = transformers.AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def embed(batch: Batch, size: int) -> Any:
        found = []
        with torch.inference_mode():
            for at in range(0, len(batch), size):
                ids = torch.tensor(batch[at : at + size])
                found.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state)
        return torch.cat(found)

    def timed(batch: Batch, size: int) -> tuple[float, Any]:
        started = time.perf_counter()
        states = embed(batch, size)
        return time.perf_counter() - started, states

    best: dict[tuple[int, int], int] = {}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        batch = request["batch"]
        shape = len(batch), len(batch[0])
        if shape not in best:
            sizes = [size for size in SIZES if size <= len(batch)]
            for size in sizes:  # the second time all is warm
                embed(batch[:size], size)
            best[shape] = min((timed(batch, size)[0], size) for size in sizes)[1]
        seconds, states = timed(batch, best[shape])
        answer: dict[str, Any] = {"seconds": seconds}
        if request["vectors"]:
            answer["vectors"] = states[:, 0 if request["vectors"] == "cls" else -1].double().tolist()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
