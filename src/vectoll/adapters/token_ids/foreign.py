"""Token ids of OpenAI's vocabularies, as clients send them to every server, back to text."""

from collections.abc import Sequence

from vectoll.adapters.token_ids.vocabulary import Vocabulary
from vectoll.domain.errors import InvalidRequest

MAX_TEXT_BYTES = 32 * 2**20
"""Most text that the token ids of one request may stand for: as much as could be sent as text. One id may be 128
spaces."""


class BytePairDecoder:
    """Implements ``ports.model.ForeignTokens``: decodes the ids of one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def decode(self, inputs: Sequence[Sequence[int]]) -> Sequence[str]:
        """See ``ForeignTokens.decode``. Replaces broken UTF-8 as tiktoken does: LangChain cuts long texts between
        any two tokens, also inside a character.
        """
        texts, left = [], MAX_TEXT_BYTES
        for index, ids in enumerate(inputs):
            parts = self._parts(index, ids)
            left -= sum(map(len, parts))
            if left < 0:
                message = (
                    f"these token ids stand for more than {MAX_TEXT_BYTES} bytes of text: send fewer inputs"
                )
                raise InvalidRequest.at(("input", index), message)
            texts.append(b"".join(parts).decode("utf-8", errors="replace"))
        return texts

    def _parts(self, index: int, ids: Sequence[int]) -> Sequence[bytes]:
        tokens = self._vocabulary.tokens
        if min(ids) < 0 or max(ids) >= len(tokens):
            raise self._refusal(index, ids)
        return [tokens[i] for i in ids]

    def _refusal(self, index: int, ids: Sequence[int]) -> InvalidRequest:
        vocabulary = self._vocabulary
        if any(i in vocabulary.special_ids for i in ids):
            what = f"has a special token id of {vocabulary.name}, which stands for no text"
        else:
            what = (
                f"has a token id outside 0..{len(vocabulary.tokens) - 1}, the vocabulary of {vocabulary.name}"
            )
        message = f"input {index} {what}. Send text, or the ids of {vocabulary.name}."
        return InvalidRequest.at(("input", index), message)
