"""What is a URL to ask over HTTP."""

from urllib.parse import urlsplit


def is_http_url(url: str) -> bool:
    """Whether it names a host to ask over HTTP. It may hold a user's name and password."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False
    return is_one and " " not in url
