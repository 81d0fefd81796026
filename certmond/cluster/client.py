"""The connection to the Kubernetes API, through lightkube, with the credentials of a kubeconfig.

Owns the connection, the time limit of a call, and the translation of the API's errors. The caller owns the calls and
the meaning of the answers. No message quotes a kubeconfig. lightkube is an extra, so this module is imported only where
a configuration needs it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
import yaml
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.core.exceptions import ConfigError

from certmond.errors import RefusedError, UnknownServerError, UnknownUserError, UnreachableError
from certmond.files.cache import Files
from certmond.files.path_resolution import named_users
from certmond.pki.findings import printable

FIELD_MANAGER = "certmond"
PAGE = 250
"""Objects in one page of a listing. A pod is some ten kilobytes."""
_LISTING = 12
"""Time limit of a listing with all its pages, as a multiple of one call's. 30,000 pods have 120 pages."""

_TURN = 0.5  # seconds; `alive` is due every second
_NO_ISSUER = {7, 18, 19, 20, 21}
"""OpenSSL's codes for a certificate that no trusted CA has signed (x509_vfy.h), with or without a CA of that name."""

# Exceptions of lightkube where a kubeconfig, or the server, violates its assumptions.
_LAX = (ConfigError, ValueError, LookupError, TypeError, AttributeError, RecursionError)

T = TypeVar("T")


class TakenError(Exception):
    """HTTP 409: the name exists, or the object was changed meanwhile."""


class GoneError(Exception):
    """HTTP 404: the object does not exist."""


@asynccontextmanager
async def connected(kubeconfig: str, time_limit: timedelta) -> AsyncIterator[Connection]:
    """Yield a connection for the current context of `kubeconfig`.

    Raises RefusedError for an unusable kubeconfig, or one that users other than root and certmond can change. These
    users would choose which program runs, and which files are read, with certmond's rights.
    """
    if writers := Files().entry(kubeconfig).writers:
        detail = f"{kubeconfig} can be changed by {named_users(writers)}, and is not used"
        raise RefusedError(f"{detail}; chown root {kubeconfig}, and chmod go-w it and its directories")
    seconds = time_limit.total_seconds()
    client = _client(kubeconfig, seconds)
    if client is None:
        detail = f"{kubeconfig} is no kubeconfig that can be used"
        remedy = "see that it is there, and that its server, CA and credentials can be read"
        raise RefusedError(f"{detail}; {remedy}")
    try:
        yield Connection(client, kubeconfig, seconds)
    finally:
        await client.close()


def _client(kubeconfig: str, seconds: float) -> AsyncClient | None:
    """Return a client, or None for an unusable file. The reason may quote a private key, so it is not reported."""
    try:
        config = KubeConfig.from_file(kubeconfig).get()
        # Ignore proxies and trust of the environment: the kubeconfig alone decides which server to trust.
        return AsyncClient(config, timeout=httpx2.Timeout(seconds), trust_env=False, field_manager=FIELD_MANAGER)
    except (*_LAX, OSError, AssertionError, yaml.YAMLError):
        return None


def attended(work: Coroutine[Any, Any, T], alive: Callable[[], None]) -> T:
    """Return the result of `work`. Call `alive` at least every second until then."""

    async def attend() -> T:
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.wait({task}, timeout=_TURN)
            alive()
        return task.result()

    return asyncio.run(attend())


class Connection:
    """A connection to the API server with one kubeconfig. A call, or a page of a listing, takes at most `seconds`."""

    def __init__(self, client: AsyncClient, kubeconfig: str, seconds: float) -> None:
        self.client = client
        self._kubeconfig = kubeconfig
        self._seconds = seconds

    async def call(self, doing: str, rule: str, call: Callable[[], Awaitable[T]], *, times: int = 1) -> T:
        """Make one call. Repeat it after the server's Retry-After, until the time is up.

        `doing` describes the call in an error message, and `rule` is the RBAC rule that permits it. The limit is
        `times` that of a call. Raises RefusedError where the API server refuses, UnreachableError where a later call
        may succeed, and TakenError or GoneError for the caller.
        """
        seconds = self._seconds * times
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await call()
                    except httpx2.HTTPStatusError as error:
                        wait = error.response.headers.get("Retry-After", "")
                        if not wait.isdecimal() or int(wait) >= seconds:
                            raise self._translated(doing, rule, error) from None
                        await asyncio.sleep(max(int(wait), 1))
        except (TimeoutError, httpx2.HTTPError, OSError) as error:
            within = seconds if isinstance(error, TimeoutError) else self._seconds  # httpx limits each response
            detail = printable(str(error)) or f"no answer within {within:g} s"
            if _is_of_no_known_ca(error):
                fact = f"what the Kubernetes API serves is of no CA that {self._kubeconfig} trusts ({detail})"
                raise UnknownServerError(fact) from None
            raise UnreachableError(f"the Kubernetes API of {self._kubeconfig} cannot be reached ({detail})") from None
        except _LAX as error:
            refused = (each for each in _causes(error) if isinstance(each, httpx2.HTTPStatusError))
            if any(each.response.status_code == HTTPStatus.UNAUTHORIZED for each in refused):
                raise self._unknown_user() from None
            detail = f"what answers at the server of {self._kubeconfig} is no Kubernetes API"
            raise UnreachableError(f"{detail}; see what listens there") from None

    async def listed(self, doing: str, rule: str, items: Callable[[], AsyncIterable[T]]) -> list[T]:
        """Return all objects of a listing, across its pages.

        Raises RefusedError for a kind that the API does not have.
        """

        async def every() -> list[T]:
            return [item async for item in items()]

        try:
            return await self.call(doing, rule, every, times=_LISTING)
        except GoneError:
            raise RefusedError(
                f"the Kubernetes API of {self._kubeconfig} cannot {doing}: it has no such kind; see its version"
            ) from None

    def _translated(self, doing: str, rule: str, error: httpx2.HTTPStatusError) -> Exception:
        said = error.status.message if isinstance(error, ApiError) else error.response.reason_phrase
        message = printable(said or "no reason given")[:300]
        asked = f"the Kubernetes API of {self._kubeconfig} was to {doing}"
        match error.response.status_code:
            case 401:
                return self._unknown_user()
            case 403:
                return RefusedError(f"the user of {self._kubeconfig} may not {doing} ({message}); {rule}")
            case 404:
                return GoneError(f"{asked}, and has no such object or kind")
            case 409:
                return TakenError(f"{asked}, and says that it was changed meanwhile")
            case 400 | 405 | 422 as status:
                return RefusedError(f"the Kubernetes API does not take the request ({status}: {message})")
            case status:
                return UnreachableError(
                    f"the Kubernetes API of {self._kubeconfig} is not able to ({status}: {message})"
                )

    def _unknown_user(self) -> UnknownUserError:
        remedy = "renew the credentials in that file"
        return UnknownUserError(f"the Kubernetes API does not know the user of {self._kubeconfig}; {remedy}")


def _is_of_no_known_ca(error: BaseException) -> bool:
    refused = (each for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError))
    return any(each.verify_code in _NO_ISSUER for each in refused)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
