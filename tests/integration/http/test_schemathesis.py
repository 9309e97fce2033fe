"""The server keeps the promises of its own /openapi.json, whatever it is sent."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.http.conftest import Live

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
)


def run(live: Live, where: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """schemathesis as its users run it. Its process is its own, so our warnings filter is not applied to it."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{live.url}/openapi.json"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing"),
        *("--header", f"Authorization: Bearer {live.key}", "--suppress-health-check", "all"),
        *("--generation-with-security-parameters", "false"),
        *options,
    ]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize("path", ["/api/v1/embeddings", "/v1/embeddings"])
def test_embeddings_answer_only_what_is_documented(live: Live, tmp_path: Path, path: str) -> None:
    done = run(live, tmp_path, "--include-path", path, "--max-examples", "150")
    assert done.returncode == 0, done.stdout
    assert live.answers.statuses["POST", path] >= {200, 400, 415}


def test_the_rest_answers_only_what_is_documented(live: Live, tmp_path: Path) -> None:
    spared = "createEmbedding|deleteApiKey"  # deleting keys found in other answers ends in deleting one's own
    done = run(live, tmp_path, "--exclude-operation-id-regex", spared, "--max-examples", "8")
    assert done.returncode == 0, done.stdout
    for path in ("models", "billing/balance", "billing/usage-history", "api_keys", "api_keys/rate_limits"):
        assert 200 in live.answers.statuses["GET", f"/api/v1/{path}"], path
    assert 200 in live.answers.statuses["POST", "/api/v1/api_keys"]


def test_deleting_answers_only_what_is_documented(live: Live, tmp_path: Path) -> None:
    done = run(live, tmp_path, "--include-operation-id-regex", "deleteApiKey", "--max-examples", "8")
    assert done.returncode == 0, done.stdout
