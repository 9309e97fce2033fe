"""How many tokens a text cannot exceed, whoever's tokenizer reads it."""

import unicodedata

SPECIAL_TOKENS = 16
"""Room for what a server may put around each input: special tokens, a leading space, a short prompt."""


def token_bound(text: str) -> int:
    """At least the number of tokens of ``text`` in any tokenizer in use, special tokens included.

    Byte-level and byte-fallback vocabularies have at most one token per UTF-8 byte, the others at most one per
    character after their normalisation. That may grow a text: U+FDFA is 3 bytes and becomes 18 characters under
    NFKC. So the larger of the text's bytes and of the bytes of its full decomposition is counted. Raises
    UnicodeEncodeError for a lone surrogate.
    """
    if text.isascii():
        return len(text) + SPECIAL_TOKENS
    decomposed = unicodedata.normalize("NFKD", text)
    return max(len(text.encode()), len(decomposed.encode())) + SPECIAL_TOKENS
