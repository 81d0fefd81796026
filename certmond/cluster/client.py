"""Connection to the Kubernetes API through lightkube.

This module limits the duration of a call and translates errors. No message quotes a kubeconfig. lightkube is optional.
Therefore, import this module only to make a call.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import yaml
from lightkube import ApiError, AsyncClient, KubeConfig
from lightkube.core.exceptions import ConfigError

from certmond.errors import LimitError, RefusedError, UnknownServerError, UnknownUserError, UnreachableError
from certmond.files.cache import Files
from certmond.files.path_resolution import named_users
from certmond.formats.yaml_documents import load_documents
from certmond.pki.findings import printable

FIELD_MANAGER = "certmond"
PAGE = 250
"""Number of objects in one page of a list. A Pod object contains about ten kilobytes."""
_LISTING_FACTOR = 12
"""Time limit of a whole list, as a multiple of the limit of one call. A list of 30,000 Pods has 120 pages."""

_ALIVE_INTERVAL = 0.5  # seconds; half of the interval that `alive` requires
_NO_ISSUER = {7, 18, 19, 20, 21}
"""Error codes of OpenSSL (x509_vfy.h) for a certificate that no trusted CA has signed."""

# Exceptions that lightkube raises for an unexpected kubeconfig or an unexpected response.
_MALFORMED_INPUT = (ConfigError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

T = TypeVar("T")


class ConflictError(Exception):
    """HTTP status 409: the object already exists, or another client has changed the object."""


class NotFoundError(Exception):
    """HTTP status 404: the object does not exist."""


@asynccontextmanager
async def connected(kubeconfig: str, time_limit: timedelta) -> AsyncIterator[Connection]:
    """Yield a connection for the current context of `kubeconfig`.

    Raises RefusedError if the file is unusable. Also raises RefusedError if an untrusted user can change the file,
    because certmond would run the programs that a kubeconfig names.
    """
    if writers := Files().entry(kubeconfig).writers:
        detail = f"{kubeconfig} can be changed by {named_users(writers)}, so certmond does not use it"
        raise RefusedError(
            f"{detail}; let only root write to this path: chown root {kubeconfig}; chmod go-w {kubeconfig}"
        )
    seconds = time_limit.total_seconds()
    client = _client(kubeconfig, seconds)
    if client is None:
        detail = f"{kubeconfig} is missing, or is not a usable kubeconfig"
        remedy = f"check its server, CA and credentials: kubectl --kubeconfig {kubeconfig} version"
        raise RefusedError(f"{detail}; {remedy}")
    try:
        yield Connection(client, kubeconfig, seconds)
    finally:
        await client.close()


def _client(kubeconfig: str, seconds: float) -> AsyncClient | None:
    """Return a client for the kubeconfig, or None if the file is unusable.

    Drop the exception, whose text might quote a private key.
    """
    try:
        path = Path(kubeconfig)
        (document,) = load_documents(path.read_bytes() if path.is_file() else b"")
        config = KubeConfig.from_dict(document, fname=path).get()
        # Ignore proxies and CA certificates in the environment: the kubeconfig alone decides which server to trust.
        return AsyncClient(config, timeout=httpx2.Timeout(seconds), trust_env=False, field_manager=FIELD_MANAGER)
    except (*_MALFORMED_INPUT, LimitError, OSError, AssertionError, yaml.YAMLError):
        return None


def run_with_keepalive(work: Coroutine[Any, Any, T], alive: Callable[[], None]) -> T:
    """Run `work` and return its result. Meanwhile, call `alive` at least every second."""

    async def wait() -> T:
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.wait({task}, timeout=_ALIVE_INTERVAL)
            alive()
        return task.result()

    return asyncio.run(wait())


class Connection:
    """Connection to the API server of one kubeconfig.

    A call, or the request for one page of a list, takes at most `seconds`.
    """

    def __init__(self, client: AsyncClient, kubeconfig: str, seconds: float) -> None:
        self.client = client
        self._kubeconfig = kubeconfig
        self._seconds = seconds

    async def call(
        self, doing: str, rule: str, call: Callable[[], Awaitable[T]], *, times: int = 1, once: bool = False
    ) -> T:
        """Make one call and return the result. Without `once`, repeat the call while the API server requests a retry.

        `doing` describes the call in a message, and `rule` describes how to permit the call. `times` multiplies the
        time limit. Raises RefusedError if the API server rejects the call, ConflictError for the status 409, and
        NotFoundError for the status 404. Raises UnreachableError if a later call might succeed.
        """
        seconds = self._seconds * times
        try:
            async with asyncio.timeout(seconds):
                while True:
                    try:
                        return await call()
                    except httpx2.HTTPStatusError as error:
                        wait = error.response.headers.get("Retry-After", "")
                        if once or not wait.isdecimal() or int(wait) >= seconds:
                            raise self._translated(doing, rule, error) from None
                        await asyncio.sleep(max(int(wait), 1))
        except (TimeoutError, httpx2.HTTPError, OSError) as error:
            within = seconds if isinstance(error, TimeoutError) else self._seconds  # httpx limits each response
            detail = printable(str(error)) or f"no answer within {within:g} s"
            if _is_issuer_unknown(error):
                fact = f"{self._kubeconfig} does not contain the CA of the API server's certificate ({detail})"
                raise UnknownServerError(f"{fact}; correct the CA in this kubeconfig") from None
            raise UnreachableError(f"certmond cannot reach the API server of {self._kubeconfig} ({detail})") from None
        except _MALFORMED_INPUT as error:
            refused = (each for each in _causes(error) if isinstance(each, httpx2.HTTPStatusError))
            if any(each.response.status_code == HTTPStatus.UNAUTHORIZED for each in refused):
                raise self._unknown_user() from None
            detail = f"the server of {self._kubeconfig} does not answer like a Kubernetes API server"
            raise UnreachableError(f"{detail}; check the address of the server") from None

    async def listed(
        self, doing: str, rule: str, items: Callable[[], AsyncIterable[T]], *, once: bool = False
    ) -> list[T]:
        """Return the objects of all pages of a list.

        With `once`, all pages together take at most the time of one call, and no request is repeated.

        Raises the errors of `call`, and RefusedError if the API server does not support the kind of the objects.
        """

        async def every() -> list[T]:
            return [item async for item in items()]

        try:
            return await self.call(doing, rule, every, times=1 if once else _LISTING_FACTOR, once=once)
        except NotFoundError:
            raise RefusedError(
                f"certmond cannot {doing}: the API server of {self._kubeconfig} does not support this kind of object; "
                f"check its version: kubectl --kubeconfig {self._kubeconfig} version"
            ) from None

    def _translated(self, doing: str, rule: str, error: httpx2.HTTPStatusError) -> Exception:
        reason = error.status.message if isinstance(error, ApiError) else error.response.reason_phrase
        message = printable(reason or "no reason given")[:300]
        action = f"certmond cannot {doing} at the API server of {self._kubeconfig}"
        match error.response.status_code:
            case 401:
                return self._unknown_user()
            case 403:
                return RefusedError(f"the user of {self._kubeconfig} may not {doing} ({message}); {rule}")
            case 404:
                return NotFoundError(f"{action}: the API server has no such object or kind")
            case 409:
                return ConflictError(f"{action}: another client has changed the object")
            case 400 | 405 | 422 as status:
                return RefusedError(f"the API server rejects the request to {doing} ({status}: {message})")
            case status:
                return UnreachableError(
                    f"the API server of {self._kubeconfig} cannot {doing} now ({status}: {message})"
                )

    def _unknown_user(self) -> UnknownUserError:
        remedy = "renew the credentials in this kubeconfig"
        return UnknownUserError(f"the API server rejects the credentials in {self._kubeconfig} (401); {remedy}")


def _is_issuer_unknown(error: BaseException) -> bool:
    refused = (each for each in _causes(error) if isinstance(each, ssl.SSLCertVerificationError))
    return any(each.verify_code in _NO_ISSUER for each in refused)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
