"""docs/models.md says what the catalogue says."""

import re
from pathlib import Path

import pytest

from vectoll.catalog_file import builtin_models, read_models
from vectoll.domain.catalog import ModelSpec
from vectoll.settings import Settings

DOC = Path(__file__).parents[2] / "docs" / "models.md"
COLUMNS = (
    "id",
    "weights",
    "engine",
    "dims",
    "max tokens",
    "prompts",
    "memory",
    "$/million",
    "token ids",
    "how to enable",
)


def table() -> list[dict[str, str]]:
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("|")]
    start = lines.index("| " + " | ".join(COLUMNS) + " |")
    rows = []
    for line in lines[start + 2 :]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != len(COLUMNS):
            break
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


CATALOG = read_models(Settings(), environ={}).catalog
ENTRIES = {entry.id: entry for entry in builtin_models()}
ROWS = {row["id"].strip("`"): row for row in table()}


def dims_of(spec: ModelSpec) -> str:
    if spec.matryoshka_any:
        return f"{spec.min_dims} to {spec.dims}"
    return ", ".join(map(str, sorted({*spec.matryoshka_dims, spec.dims})))


def test_every_model_has_a_row_in_the_catalogues_order() -> None:
    assert list(ROWS) == list(CATALOG)


@pytest.mark.parametrize("spec", CATALOG.values(), ids=lambda spec: spec.id)
def test_a_row_says_what_the_catalogue_says(spec: ModelSpec) -> None:
    row = ROWS[spec.id]
    assert row["dims"] == dims_of(spec)
    assert row["max tokens"] == str(spec.max_tokens)
    assert row["$/million"] == f"{spec.price.usd_per_million:f}"
    assert row["token ids"] == spec.token_ids.value
    if spec.upstream is None:
        assert row["weights"] == f"`{spec.source.repo}`"
        assert row["engine"] == f"native: {spec.family}, {spec.pooling}"
        assert re.fullmatch(r"[\d.]+ [MG]B", row["memory"])
        assert row["how to enable"].startswith("on" if spec.source.package else "name it")
    else:
        assert row["weights"].startswith("bought from")
        assert row["engine"] == spec.kind.value
        assert row["memory"] == "none"
        assert row["how to enable"] == f"name it, set `{spec.upstream.api_key_env}`"


def test_no_default_prompt_is_added_as_the_page_says() -> None:
    assert not any(entry.prompt for entry in ENTRIES.values())


def test_the_aliases_that_the_page_names_are_there() -> None:
    assert CATALOG.resolve("text-embedding-ada-002").id == "text-embedding-bge-m3"
    for spec in CATALOG.values():
        if spec.upstream is None and spec.source.repo:
            assert CATALOG.resolve(spec.source.repo) is spec


def test_the_examples_are_settings_that_work(tmp_path: Path) -> None:
    from vectoll.domain.catalog import CheckpointFacts, Pooling
    from vectoll.settings import load_settings

    facts = CheckpointFacts(family="bert", pooling=Pooling.MEAN, dims=8, max_tokens=8)
    for number, example in enumerate(re.findall(r"```toml\n(.*?)```", DOC.read_text(), re.DOTALL)):
        config = tmp_path / f"{number}.toml"
        config.write_text(example)
        settings = load_settings(config, environ={})
        assert settings.models
        read_models(settings, lambda *_: facts, environ={})
