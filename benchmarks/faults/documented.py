"""What the OpenAPI document of a server allows it to answer."""

import json
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

JSON = "application/json"


class Documented:
    """The answers of each route, by method, path and status."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._validators: dict[tuple[str, str, int], Draft202012Validator] = {}

    def problem_of(self, method: str, path: str, status: int, media_type: str, body: bytes) -> str | None:
        """Why this answer is none that the document promises; None where it is one. Names no input."""
        responses = self._document["paths"].get(path, {}).get(method.lower())
        if responses is None:
            return None if status in (404, 405) else f"{status} from a route that is not documented"
        promised = responses["responses"].get(str(status))
        if promised is None:
            return f"{status} is not a documented status"
        if media_type != JSON:
            return f"{status} as {media_type or 'nothing'}"
        schema = promised["content"][JSON]["schema"]
        validator = self._validators.setdefault(
            (method, path, status),
            Draft202012Validator({"components": self._document["components"], **schema}),
        )
        try:
            found = next(validator.iter_errors(json.loads(body)), None)
        except ValueError:
            return f"{status} with a body that is not JSON"
        return None if found is None else f"{status} of another shape at {found.json_path}"
