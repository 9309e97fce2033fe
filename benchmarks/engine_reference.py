"""sentence-transformers with its defaults, as a process that ``engine.py`` talks to. Needs nothing of vectoll.

Reads one JSON array of texts per line, encodes it, and writes the seconds that took as one line.
"""

import json
import sys
import time

from sentence_transformers import SentenceTransformer


def main() -> None:
    model = SentenceTransformer(sys.argv[1], device="cpu")
    model.encode(["warm", "up"])
    print("ready", flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        started = time.perf_counter()
        model.encode(texts)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
