"""Writes minilm.json. Run with an interpreter that has torch, transformers and vectoll's own dependencies::

PYTHONPATH=.:src python tests/golden/make_minilm.py
"""

import base64
import json
from pathlib import Path

import torch
import transformers
from tests.golden.texts import TEXTS
from tests.minilm import PACKAGE, minilm
from tests.reference import embed_with_transformers


def main() -> None:
    folder = minilm().folder
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text, truncation=False, padding=False)["input_ids"] for text in TEXTS]
    vectors = embed_with_transformers(folder, ids, "mean")
    golden = {
        "package": PACKAGE,
        "made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
        "ids": ids,
        "dims": vectors.shape[1],
        "vectors_f32_base64": base64.b64encode(vectors.astype("<f4").tobytes()).decode(),
    }
    Path(__file__).with_name("minilm.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
