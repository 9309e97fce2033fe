"""What a client would rather have: Accept and Accept-Encoding (RFC 9110 §12.4.2)."""


def preferences(header: str) -> dict[str, float]:
    """Each choice in lower case, and its weight: from 0, not acceptable, to 1."""
    weights: dict[str, float] = {}
    for item in header.lower().split(","):
        choice, *parameters = (part.strip() for part in item.split(";"))
        if choice:
            weights[choice] = _quality(parameters)
    return weights


def _quality(parameters: list[str]) -> float:
    """The q parameter, from 0 to 1; 1 when absent, 0 when it is not a number."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            text = value.strip()
            is_number = text.isascii() and text.replace(".", "", 1).isdigit()
            return min(1.0, float(text)) if is_number else 0.0
    return 1.0
