"""Token ids of OpenAI's vocabularies, as clients send them to every server, back to text."""

from collections.abc import Sequence

from vectoll.adapters.token_ids.vocabulary import Vocabulary
from vectoll.domain.errors import InvalidRequest


class BytePairText:
    """Implements ``ports.model.ForeignTokens`` for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def decode(self, inputs: Sequence[Sequence[int]]) -> Sequence[str]:
        """See ``ForeignTokens.decode``. Replaces broken UTF-8 as tiktoken does: LangChain cuts long texts between
        any two tokens, also inside a character.
        """
        return [self._text(index, ids) for index, ids in enumerate(inputs)]

    def _text(self, index: int, ids: Sequence[int]) -> str:
        tokens = self._vocabulary.tokens
        if min(ids) < 0 or max(ids) >= len(tokens):
            raise self._refusal(index, ids)
        return b"".join([tokens[i] for i in ids]).decode("utf-8", errors="replace")

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
