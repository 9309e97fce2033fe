"""Text to token ids with the tokenizer that a checkpoint carries (Hugging Face ``tokenizer.json``)."""

from vectoll.adapters.tokenizers.checkpoint import CheckpointTokenizer, load_tokenizer, load_tokenizer_file

__all__ = ["CheckpointTokenizer", "load_tokenizer", "load_tokenizer_file"]
