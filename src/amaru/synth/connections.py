"""Open connections to one endpoint, each lent to one call at a time."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from amaru.errors import BackendError

try:
    import httpx
except ImportError as error:
    raise BackendError("Asking models over HTTP needs httpx; install it with: pip install 'amaru[synth]'") from error


class Connections:
    """`with connections.one() as http: await http.post(...)`.

    Each is an httpx client of a single connection: a pool of httpx looks at all of its connections for each call, which at a thousand
    costs more than the call. Proxies of the environment are not used.
    """

    def __init__(self, certificates: ssl.SSLContext) -> None:
        self._certificates = certificates
        self._all: list[httpx.AsyncClient] = []
        self._free: list[httpx.AsyncClient] = []

    @contextmanager
    def one(self) -> Iterator[httpx.AsyncClient]:
        """The one that was used last, as it is the least likely to have been closed; a new one when all are lent."""
        http = self._free.pop() if self._free else self._new()
        try:
            yield http
        finally:
            self._free.append(http)

    async def close(self) -> None:
        for http in self._all:
            await http.aclose()

    def _new(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        self._all.append(http := httpx.AsyncClient(limits=limits, timeout=None, trust_env=False, verify=self._certificates))
        return http
