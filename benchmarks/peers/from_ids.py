"""A transformers model as one would use it for speed, from token ids: ``large_models.py`` talks to it. Needs nothing of
vectoll.

    python benchmarks/peers/from_ids.py FOLDER DTYPE THREADS

Reads one JSON list of sequences per line, all of one length, and writes the seconds that their last hidden states
took, in batches of whichever of SIZES is fastest.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence

SIZES = (1, 2, 4, 8, 16, 32)
Batch = Sequence[Sequence[int]]


def main() -> None:
    folder, dtype, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def embed(batch: Batch, size: int) -> None:
        with torch.inference_mode():
            for at in range(0, len(batch), size):
                ids = torch.tensor(batch[at : at + size])
                model(input_ids=ids, attention_mask=torch.ones_like(ids))

    best: dict[tuple[int, int], int] = {}
    print(json.dumps(torch.__version__), file=answers, flush=True)
    for line in sys.stdin:
        batch = json.loads(line)
        shape = len(batch), len(batch[0])
        if shape not in best:
            sizes = [size for size in SIZES if size <= len(batch)]
            tries = [(seconds(embed, batch, size), size) for size in (*sizes, *sizes)]
            best[shape] = min(tries[len(sizes) :])[1]  # the second time all is warm
        print(json.dumps(seconds(embed, batch, best[shape])), file=answers, flush=True)


def seconds(embed: Callable[[Batch, int], None], batch: Batch, size: int) -> float:
    started = time.perf_counter()
    embed(batch, size)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
