"""What a checkpoint says about itself, as one typed value: no engine reads JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectoll.adapters.checkpoints.architecture import Architecture, Config, read_architecture, text_tower
from vectoll.adapters.checkpoints.location import CONFIG_NAME, GRAPH_FILES, TOKENIZER_NAME
from vectoll.adapters.checkpoints.safetensors import INDEX_NAME, SINGLE_NAME, Weights, open_weights
from vectoll.adapters.checkpoints.shapes import check_weights
from vectoll.adapters.checkpoints.torch_zip import PICKLE_NAME, open_torch_zip
from vectoll.domain.catalog import Pooling
from vectoll.domain.errors import ConfigurationError

UNLIMITED_TOKENS = 1_000_000
"""Tokenizers write astronomic numbers for "no limit"; anything above this is one."""

_BERT_RULES = {
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}
"""Keys of tokenizer_config.json, names of ``BertNormalizer``, and what transformers takes for a key that is missing."""
_BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")

ADAPTER_NAME = "adapter_config.json"
"""What is beside the weights is then no model by itself, but what is added to another's."""
PROMPTS_NAME = "config_sentence_transformers.json"

_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {
    "cls": Pooling.CLS,
    "mean": Pooling.MEAN,
    "avg": Pooling.MEAN,
    "lasttoken": Pooling.LAST,
    "last": Pooling.LAST,
}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model folder, read and checked."""

    folder: Path
    architecture: Architecture
    pooling: Pooling | None
    """None when the folder does not say."""
    pools_prompt: bool
    """Whether the mean is over a prompt's tokens, too."""
    max_tokens: int
    """Longest input that the folder's own settings allow, special tokens included."""
    end_ids: frozenset[int]
    """Token ids that may end a sequence, by config.json: end of sequence, or padding."""
    end_token: str | None
    """The end of sequence by tokenizer_config.json, as text."""
    padding_token: str | None
    adds_end_token: bool
    """Whether tokenizer_config.json asks for an end token. tokenizer.json alone decides, and may have forgotten."""
    bert_rules: tuple[tuple[str, bool | None], ...]
    """What tokenizer_config.json makes of BERT's normaliser, by ``BertNormalizer``'s names, also where it is silent: it
    wins over tokenizer.json (transformers, and who tried the model with it). Empty for other tokenizers."""
    default_prompt: str
    """What sentence-transformers puts before every text that comes without a prompt; mostly nothing."""

    @property
    def dims(self) -> int:
        """Size of a vector."""
        return self.architecture.hidden

    @property
    def tokenizer_file(self) -> Path:
        """The tokenizer's definition."""
        return self.folder / TOKENIZER_NAME

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to build a graph from."""
        return any((self.folder / name).is_file() for name in (SINGLE_NAME, INDEX_NAME, PICKLE_NAME))

    @property
    def graph_file(self) -> Path | None:
        """A ready-made graph of the model: OpenVINO IR, else ONNX."""
        return next((self.folder / name for name, _ in GRAPH_FILES if (self.folder / name).is_file()), None)

    def open_weights(self) -> Weights:
        """The text tower's weights, without the prefix that wrapping models put before their names.

        Raises ConfigurationError when they cannot be read, or are not those that config.json describes.
        """
        has_safetensors = any((self.folder / name).is_file() for name in (SINGLE_NAME, INDEX_NAME))
        pickled = self.folder / PICKLE_NAME
        weights = (
            open_weights(self.folder) if has_safetensors or not pickled.is_file() else open_torch_zip(pickled)
        )
        table = (
            "embeddings.word_embeddings.weight"
            if self.architecture.family.is_encoder
            else "embed_tokens.weight"
        )
        prefixes = [name.removesuffix(table) for name in weights if name.endswith(table)]
        if len(prefixes) != 1:
            raise ConfigurationError(f"{self.folder}: {len(prefixes)} tensors end in {table}, expected 1")
        tower = weights.under(prefixes[0])
        try:
            check_weights(self.architecture, tower)
        except KeyError as error:
            raise ConfigurationError(f"{self.folder} lacks the weight {error}") from None
        return tower


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder's descriptions, not its weights.

    Raises ConfigurationError when one is missing or broken, or asks for a family or feature nobody computes.
    """
    config = _read_object(folder / CONFIG_NAME)
    if (folder / ADAPTER_NAME).is_file():
        raise ConfigurationError(
            f"{folder / ADAPTER_NAME} is of an adapter (LoRA), which is not computed: merge it into the weights"
        )
    tokenizer = _read_optional(folder / "tokenizer_config.json")
    sentence = _read_optional(folder / "sentence_bert_config.json")
    try:
        tower = text_tower(config)
        architecture = read_architecture(tower)
        (pooling, pools_prompt), bert_rules = _pooling(folder, tower), _bert_rules(tokenizer, tower)
        _check_case(sentence, bert_rules)
        longest = (
            architecture.positions,
            sentence.get("max_seq_length"),
            tokenizer.get("model_max_length"),
        )
        return Checkpoint(
            folder=folder,
            architecture=architecture,
            pooling=pooling,
            pools_prompt=pools_prompt,
            max_tokens=min(int(n) for n in longest if n and n < UNLIMITED_TOKENS),
            end_ids=_ids(tower.get("eos_token_id")) | _ids(tower.get("pad_token_id")),
            end_token=_text(tokenizer.get("eos_token")),
            padding_token=_text(tokenizer.get("pad_token")),
            adds_end_token=tokenizer.get("add_eos_token") is True,
            bert_rules=bert_rules,
            default_prompt=_default_prompt(_read_optional(folder / PROMPTS_NAME)),
        )
    except KeyError as error:
        raise ConfigurationError(f"{folder / CONFIG_NAME} lacks {error}") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ConfigurationError(f"the checkpoint {folder} cannot be served: {error}") from None


def _pooling(folder: Path, tower: Config) -> tuple[Pooling | None, bool]:
    """From the sentence-transformers modules; without them, from config.json's own ``pooling``. And whether a prompt's
    tokens are pooled.
    """
    modules_file = folder / "modules.json"
    if not modules_file.is_file():
        return _POOLINGS.get(str(tower.get("pooling"))), True
    pooling, pools_prompt = None, True
    for module in _read_json(modules_file):
        library, _, rest = module["type"].partition(".")
        kind = rest.rpartition(".")[2]
        if library != "sentence_transformers" or kind not in _MODULES:
            raise ValueError(f"modules.json asks for a {module['type']} module, which is not supported")
        if kind == "Pooling":
            config = _read_object(folder / Path(module["path"]).name / "config.json")
            pooling, pools_prompt = _pooling_mode(config), config.get("include_prompt", True) is True
    return pooling, pools_prompt


def _pooling_mode(config: Config) -> Pooling:
    """Both spellings: ``"pooling_mode": "mean"`` and one flag per mode."""
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    elif isinstance(modes, str):
        modes = [modes]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise ValueError(f"the pooling {' + '.join(modes) or 'none'} is not one of cls, mean and lasttoken")
    return _POOLINGS[modes[0]]


def _check_case(sentence: Config, bert_rules: Sequence[tuple[str, bool | None]]) -> None:
    if sentence.get("do_lower_case") and ("lowercase", True) not in bert_rules:
        raise ValueError("sentence_bert_config.json asks for texts in lower case, its tokenizer does not")


def _default_prompt(sentence_transformers: Config) -> str:
    name = sentence_transformers.get("default_prompt_name")
    if name is None:
        return ""
    prompts = sentence_transformers.get("prompts", {})
    if name not in prompts:
        raise ValueError(f"{PROMPTS_NAME} has no prompt {name!r}, its default_prompt_name")
    return str(prompts[name])


def _bert_rules(tokenizer: Config, tower: Config) -> tuple[tuple[str, bool | None], ...]:
    usual = _BERT_CLASSES[0] if tower["model_type"] == "bert" else None
    if (tokenizer.get("tokenizer_class") or tower.get("tokenizer_class") or usual) not in _BERT_CLASSES:
        return ()
    said = ((name, tokenizer.get(key), default) for key, (name, default) in _BERT_RULES.items())
    return tuple((name, value if isinstance(value, bool) else default) for name, value, default in said)


def _ids(value: Any) -> frozenset[int]:
    """One id, several or none."""
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, list) else frozenset([int(value)])


def _text(token: Any) -> str | None:
    """A special token is written as a string, or as an object with ``content``."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is not valid JSON") from None


def _read_object(path: Path) -> dict[str, Any]:
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ConfigurationError(f"{path} is not a JSON object")
    return value


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_object(path) if path.is_file() else {}
