"""OpenAI's byte-pair vocabularies: token ids to text, and text to exact token counts.

The ``.bpe`` files hold tiktoken's ranks (``LICENSE.tiktoken``, MIT), written by ``scripts/make-token-ids``.
"""

from vectoll.adapters.token_ids.foreign import BytePairDecoder
from vectoll.adapters.token_ids.tokenizer import BytePairTokenizer
from vectoll.adapters.token_ids.vocabulary import VOCABULARIES, load_vocabulary

__all__ = ["VOCABULARIES", "BytePairDecoder", "BytePairTokenizer", "load_vocabulary"]
