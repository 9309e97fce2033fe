"""From a path and a method to an endpoint."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from vectoll.domain.errors import VectollError

_NOWHERE = "There is nothing at this path. The API is under /v1 and /api/v1, and /docs lists all there is."

Endpoint = Callable[[Request], Awaitable[Response]]


class RouteError(VectollError):
    """What the router refuses: no such path, or not with this method."""

    def __init__(self, status: int, message: str, allowed: Sequence[str] = ()) -> None:
        self.status = status
        self.allowed = allowed
        """The methods of the path, for a 405."""
        self.code = HTTPStatus(status).name
        super().__init__(message)


class Routes:
    """Endpoints by method and path. A path without parameters is found without a search."""

    def __init__(self, table: Sequence[tuple[str, str, Endpoint]]) -> None:
        """``table`` has rows of method, path template (Starlette's syntax) and endpoint."""
        self._routes = [Route(path, endpoint, methods=[method]) for method, path, endpoint in table]
        self._fixed = {
            (method, route.path): route
            for route in self._routes
            if not route.param_convertors
            for method in route.methods or ()
        }

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def find(self, scope: Scope) -> Endpoint:
        """The endpoint of a request; notes the route and its path parameters in ``scope``. Raises RouteError."""
        found = self._fixed.get((scope["method"], scope["path"])) or self._search(scope)
        scope["route"] = found
        endpoint: Endpoint = found.endpoint
        return endpoint

    def _search(self, scope: Scope) -> Route:
        allowed: set[str] = set()
        for route in self._routes:
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route
            if match is Match.PARTIAL:
                scope["route"] = route
                allowed.update(route.methods or ())
        if allowed:
            methods = sorted(allowed | {"OPTIONS"})
            raise RouteError(405, f"The methods of this path are {', '.join(methods)}.", methods)
        raise RouteError(404, _NOWHERE)
