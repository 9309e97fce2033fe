"""The catalogue that ships, and what an operator's [[models]] make of it."""

from decimal import Decimal
from pathlib import Path

import pytest

from vectoll.catalog_file import ServedModels, builtin_models, read_models
from vectoll.domain.catalog import (
    CheckpointFacts,
    ModelKind,
    ModelSource,
    Pooling,
    Privacy,
    TokenIdPolicy,
    UsageMissing,
)
from vectoll.domain.errors import ConfigurationError, ModelOffline
from vectoll.settings import ModelSettings, Settings

SPEC_IDS = {
    "text-embedding-bge-m3",
    "text-embedding-bge-en-icl",
    "text-embedding-qwen3-8b",
    "text-embedding-qwen3-0-6b",
    "text-embedding-multilingual-e5-large-instruct",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "gemini-embedding-2-preview",
    "text-embedding-nemotron-embed-vl-1b-v2",
}
VLLM = "http://vllm.internal:8000/v1"


def read(*models: ModelSettings, environ: dict[str, str] | None = None) -> ServedModels:
    return read_models(Settings(models=models), environ=environ or {})


def refused(*models: ModelSettings) -> str:
    with pytest.raises(ConfigurationError) as error:
        read(*models)
    return str(error.value)


def test_the_catalogue_has_the_specs_nine_models_and_the_embedded_default() -> None:
    assert set(read().catalog) == SPEC_IDS | {"all-MiniLM-L6-v2"}
    assert next(iter(read().catalog)) == "all-MiniLM-L6-v2"


def test_the_catalogue_has_the_public_list_prices() -> None:
    prices = {str(spec.id): spec.price.usd_per_million for spec in read().catalog.values()}
    assert prices["text-embedding-bge-m3"] == Decimal("0.15")
    assert prices["text-embedding-3-small"] == Decimal("0.025")
    assert prices["text-embedding-3-large"] == Decimal("0.1625")
    assert prices["gemini-embedding-2-preview"] == Decimal("0.25")
    others = SPEC_IDS - {spec_id for spec_id in prices if prices[spec_id] > Decimal("0.0125")}
    assert len(others) == 5
    assert {prices[spec_id] for spec_id in others} == {Decimal("0.0125")}


def test_ada_002_is_an_alias_of_bge_m3() -> None:
    assert read().catalog.resolve("text-embedding-ada-002").id == "text-embedding-bge-m3"


def test_open_models_read_openais_token_ids() -> None:
    """Why: docs/models.md, "Token ids"."""
    specs = [spec for spec in read().catalog.values() if spec.upstream is None]
    assert {spec.token_ids for spec in specs} == {TokenIdPolicy.CL100K_BASE}
    assert len(specs) == 7


def test_every_catalogue_entry_says_everything() -> None:
    for entry in builtin_models():
        assert entry.name, entry.id
        assert entry.dims, entry.id
        assert entry.max_tokens, entry.id
        assert entry.price_usd_per_million, entry.id
        assert entry.privacy, entry.id
        assert entry.licence, entry.id
        assert entry.token_ids, entry.id
        if entry.kind is None:
            assert entry.family, entry.id
            assert entry.repo, entry.id
            assert entry.pooling, entry.id
        else:
            assert entry.api_key_env, entry.id
            assert entry.privacy is Privacy.ANONYMIZED, entry.id


def test_dimensions_follow_each_models_training() -> None:
    catalog = read().catalog
    assert catalog["text-embedding-qwen3-8b"].accepts_dimensions(100)
    assert not catalog["text-embedding-qwen3-8b"].accepts_dimensions(31)
    assert catalog["text-embedding-nemotron-embed-vl-1b-v2"].accepts_dimensions(512)
    assert not catalog["text-embedding-nemotron-embed-vl-1b-v2"].accepts_dimensions(513)
    assert catalog["gemini-embedding-2-preview"].accepts_dimensions(128)
    assert not catalog["gemini-embedding-2-preview"].accepts_dimensions(127)
    for native_only in ("text-embedding-bge-m3", "text-embedding-bge-en-icl", "all-MiniLM-L6-v2"):
        spec = catalog[native_only]
        assert [d for d in range(1, 5000) if spec.accepts_dimensions(d)] == [spec.dims]


def test_an_upstream_is_off_until_the_operator_names_it_even_when_its_key_is_in_the_environment() -> None:
    environ = {"OPENAI_API_KEY": "sk-x", "GEMINI_API_KEY": "g-x"}
    assert set(read(environ=environ).offline) == {
        "text-embedding-3-small",
        "text-embedding-3-large",
        "gemini-embedding-2-preview",
    }
    named = read(ModelSettings(id="text-embedding-3-small"), environ=environ)
    assert "text-embedding-3-small" not in named.offline
    assert "text-embedding-3-large" in named.offline


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": ""}])
def test_a_named_upstream_without_its_key_is_offline_and_says_why(environ: dict[str, str]) -> None:
    served = read(ModelSettings(id="text-embedding-3-small"), environ=environ)
    model = served.catalog["text-embedding-3-small"].id
    assert "API key" in served.offline[model]
    assert "variable OPENAI_API_KEY" in served.faults[model]


def test_the_operators_fields_win_one_by_one() -> None:
    served = read(
        ModelSettings(
            id="text-embedding-bge-m3", price_usd_per_million="1", aliases=("m3",), path="/models/m3"
        )
    )
    spec = served.catalog.resolve("m3")
    assert spec.price.usd_per_million == 1
    assert spec.source.path == Path("/models/m3")
    assert (spec.dims, spec.pooling, spec.source.repo) == (1024, Pooling.CLS, "BAAI/bge-m3")
    assert "text-embedding-ada-002" not in spec.aliases


@pytest.mark.parametrize(
    "place",
    [
        {"repo": "me/tuned"},
        {"revision": "v2"},
        {"package": "tuned"},
        {"package": "tuned", "repo": "me/tuned"},
    ],
)
def test_weights_from_elsewhere_are_not_looked_for_where_the_catalogues_are(place: dict[str, str]) -> None:
    """The embedded default is in a package, which comes before a repository."""
    entry = ModelSettings(id="all-MiniLM-L6-v2", **place)  # type: ignore[arg-type]
    repo = "sentence-transformers/all-MiniLM-L6-v2" if "revision" in place else None
    assert read(entry).catalog["all-MiniLM-L6-v2"].source == ModelSource(**{"repo": repo} | place)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "given", "pooling"),
    [
        (Pooling.MEAN, None, Pooling.MEAN),
        (Pooling.MEAN, Pooling.LAST, Pooling.LAST),
        (None, None, Pooling.CLS),
    ],
)
def test_the_pooling_of_a_path_is_what_is_given_else_what_its_checkpoint_says_else_the_catalogues(
    said: Pooling | None, given: Pooling | None, pooling: Pooling
) -> None:
    settings = Settings(models=(ModelSettings(id="text-embedding-bge-m3", path="/m", pooling=given),))
    facts = CheckpointFacts("xlm-roberta", said, 1024, 8192)
    assert read_models(settings, lambda *_: facts).catalog["text-embedding-bge-m3"].pooling is pooling


def test_enabled_false_hides_a_model() -> None:
    assert (
        "text-embedding-bge-m3" not in read(ModelSettings(id="text-embedding-bge-m3", enabled=False)).catalog
    )


@pytest.mark.parametrize("key", ["sk-proj-secret", "AIzaSyDsecret", "0123456789abcdef"])
def test_a_key_in_the_place_of_its_variables_name_is_not_repeated(key: str) -> None:
    served = read(ModelSettings(id="text-embedding-3-small", api_key_env=key))
    (fault,) = served.faults.values()
    assert key not in fault
    assert "not for the key itself" in fault


def test_another_base_url_never_gets_the_catalogues_key() -> None:
    spec = read(ModelSettings(id="text-embedding-3-small", base_url=VLLM)).catalog["text-embedding-3-small"]
    assert spec.upstream is not None
    assert spec.upstream.api_key_env is None
    assert spec.upstream.base_urls == (VLLM,)
    assert spec.upstream.tokenizer is None
    assert spec.token_ids is TokenIdPolicy.CL100K_BASE


def test_a_catalogue_upstream_can_be_served_from_a_checkpoint_instead() -> None:
    served = read(ModelSettings(id="text-embedding-3-small", path="/m", pooling=Pooling.MEAN, dims=384))
    spec = served.catalog["text-embedding-3-small"]
    assert spec.kind is ModelKind.LOCAL
    assert spec.token_ids is TokenIdPolicy.CL100K_BASE
    assert spec.privacy is Privacy.PRIVATE
    assert not served.offline.get(spec.id)


def test_a_catalogue_checkpoint_can_be_served_by_an_upstream_instead() -> None:
    entry = ModelSettings(
        id="text-embedding-bge-m3", kind=ModelKind.OPENAI, base_url=VLLM, upstream_model="BAAI/bge-m3"
    )
    spec = read(entry).catalog["text-embedding-bge-m3"]
    assert spec.upstream is not None
    assert (spec.upstream.model, spec.pooling, spec.source) == (
        "BAAI/bge-m3",
        Pooling.UPSTREAM,
        ModelSource(),
    )
    assert (spec.dims, spec.max_tokens) == (1024, 8192)


def test_several_base_urls_lose_their_trailing_slash() -> None:
    urls = ("http://a:1/v1/", "https://b/v1")
    entry = ModelSettings(id="x", kind=ModelKind.OPENAI, base_url=urls, dims=8, max_tokens=8)
    upstream = read(entry).catalog["x"].upstream
    assert upstream is not None
    assert upstream.base_urls == ("http://a:1/v1", "https://b/v1")
    assert upstream.model == "x"
    assert upstream.usage_missing is UsageMissing.FAIL


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("all-MiniLM-L6-v3", "not in the catalogue (did you mean all-MiniLM-L6-v2?): give path or repo"),
        ("our-own", "not in the catalogue: give path or repo"),
    ],
)
def test_a_model_that_is_only_a_name_is_not_in_the_catalogue(name: str, says: str) -> None:
    assert says in refused(ModelSettings(id=name))


def test_what_is_left_out_is_read_from_the_checkpoint() -> None:
    facts = CheckpointFacts(family="bert", pooling=Pooling.CLS, dims=32, max_tokens=64)
    settings = Settings(models=(ModelSettings(id="mine", path="/m", dims=16),))
    spec = read_models(settings, lambda *_: facts, environ={}).catalog["mine"]
    assert (spec.pooling, spec.dims, spec.max_tokens, spec.family) == (Pooling.CLS, 16, 64, "bert")


@pytest.mark.parametrize(
    "error", [ModelOffline("mine", "it is not here"), ConfigurationError("it is broken")]
)
def test_a_checkpoint_that_cannot_be_read_takes_its_own_model_offline_and_no_other(error: Exception) -> None:
    def read_facts(*_: object) -> CheckpointFacts:
        raise error

    settings = Settings(models=(ModelSettings(id="mine", path="/secret/m", aliases=("my",)),))
    served = read_models(settings, read_facts, environ={})
    spec = served.catalog.resolve("my")
    assert served.offline[spec.id] == "its checkpoint is not there or cannot be read"
    assert served.faults[spec.id] in ("it is not here", "it is broken")
    assert (spec.dims, spec.max_tokens, spec.accepts_dimensions(7)) == (0, 0, True)
    assert set(served.catalog) == SPEC_IDS | {"all-MiniLM-L6-v2", "mine"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (ModelSettings(id="x"), "path"),
        (ModelSettings(id="x", path="/m"), "pooling"),
        (
            ModelSettings(id="x", path="/m", pooling=Pooling.UPSTREAM, dims=1, max_tokens=1),
            "cls, mean or last",
        ),
        (ModelSettings(id="x", kind=ModelKind.OPENAI), "base_url"),
        (ModelSettings(id="x", kind=ModelKind.OPENAI, base_url="ftp://h"), "http://"),
        (ModelSettings(id="x", kind=ModelKind.OPENAI, base_url="https://h:port/"), "http://"),
        (ModelSettings(id="x", kind=ModelKind.OPENAI, base_url="https://u:secret@h/v1"), "password"),
        (ModelSettings(id="x", kind=ModelKind.OPENAI, base_url="https://h/v1?key=secret"), "query"),
        (ModelSettings(id="x", kind=ModelKind.OPENAI, base_url=VLLM, max_tokens=8), "dims"),
        (
            ModelSettings(id="x", kind=ModelKind.OPENAI, base_url=VLLM, usage_missing=UsageMissing.COUNT),
            "tokenizer",
        ),
        (ModelSettings(id="gemini-embedding-2-preview", token_ids=TokenIdPolicy.NATIVE), "token ids"),
        (ModelSettings(id="text-embedding-3-small", truncate=True), "local models only"),
        (ModelSettings(id="text-embedding-bge-m3", price_usd_per_million="0.00000001"), "six decimals"),
        (ModelSettings(id="text-embedding-bge-m3", price_usd_per_million="free"), "decimal"),
        (ModelSettings(id="text-embedding-qwen3-8b", aliases=("text-embedding-ada-002",)), "two models"),
        (ModelSettings(id="text-embedding-qwen3-8b", min_dims=4097), "4097 is more than the 4096 dims"),
        (ModelSettings(id="text-embedding-bge-m3", matryoshka_dims=(8, 2048)), "2048 is more than the 1024"),
        (ModelSettings(id="text-embedding-qwen3-8b", aliases=("text-embedding-bge-m3",)), "two models"),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_the_setting(entry: ModelSettings, words: str) -> None:
    message = refused(entry)
    assert words in message
    assert "\n" not in message
    assert "secret" not in message


def test_an_id_is_configured_once() -> None:
    assert "same id" in refused(
        ModelSettings(id="text-embedding-3-small"), ModelSettings(id="text-embedding-3-small")
    )
