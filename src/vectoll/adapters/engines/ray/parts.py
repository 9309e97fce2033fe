"""One request in parts that travel apart."""

from collections.abc import Iterator, Sequence


def split(sequences: Sequence[Sequence[int]], max_tokens: int) -> Iterator[Sequence[int]]:
    """The positions of the sequences of each part: like lengths together, at most ``max_tokens`` a part.

    A sequence that is longer goes alone. Together the parts hold every position once.
    """
    lengths = [len(sequence) for sequence in sequences]
    if sum(lengths) <= max_tokens:
        yield range(len(sequences))
        return
    part: list[int] = []
    tokens = 0
    for position in sorted(range(len(sequences)), key=lengths.__getitem__):
        if part and tokens + lengths[position] > max_tokens:
            yield part
            part, tokens = [], 0
        part.append(position)
        tokens += lengths[position]
    yield part
