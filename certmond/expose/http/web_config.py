"""Parser of the web configuration, which has the format of Prometheus's exporter-toolkit.

The rules are from docs/web-configuration.md of prometheus/exporter-toolkit. A comment marks each stricter rule.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from certmond.config.validation_messages import problem_of, suggestion
from certmond.config.yaml_source import MAX_BYTES, Node, Place, Problem, read, shown
from certmond.errors import ConfigError
from certmond.immutable_class import immutable

VERSIONS = ("TLS10", "TLS11", "TLS12", "TLS13")
CURVES = ("CurveP256", "CurveP384", "CurveP521", "X25519")
SUITES_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""The cipher suites of TLS 1.3. The server always offers all of these cipher suites, as Go does."""
SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
}
"""The cipher suites in crypto/tls.CipherSuites of Go for TLS 1.2 and earlier, with their names in OpenSSL."""
HEADERS = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""The permitted headers with their valid values, or () if every value is valid."""
MOST_COST = 15
"""Maximum cost of a bcrypt hash. A check with this cost takes about 2 s. Each increment doubles this time."""

_HASH = re.compile(r"\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}")
_SPAN = re.compile(r"0|(?:(?:\d{1,9}(?:\.\d{1,9})?)(?:ns|us|µs|ms|s|m|h))+")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_VERIFYING = ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert")


def _client_auth(value: Any) -> Any:
    if value in {"RequireAnyClientCert", "RequireClientCert"}:  # these values require only that the client has a key
        raise ValueError(
            f"{value} admits every client that has a certificate from any issuer; write RequireAndVerifyClientCert"
        )
    return value or "NoClientCert"


def _span(value: Any) -> Any:
    """Return the seconds of a duration in the format of Go, such as 1m30s. Raises ValueError for any other value."""
    if isinstance(value, str) and _SPAN.fullmatch(value):
        return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([a-zµ]+)", value))
    raise ValueError("must be a duration such as 500ms or 1m30s; 0 sets no limit")


def _filled(value: Any) -> Any:
    return {key: text or "" for key, text in value.items()} if isinstance(value, dict) else value


def _count(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,6}", value) else value


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_not_there(cls, given: Any) -> Any:
        """Return the mapping without known keys that have no value, so that the defaults of these keys apply."""
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None or key not in cls.model_fields}


class TlsServerConfig(_Model):
    cert: str = Field(default="", repr=False)
    key: str = Field(default="", repr=False)
    client_ca: str = Field(default="", repr=False)
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: Annotated[
        Literal["NoClientCert", "RequestClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"],
        BeforeValidator(_client_auth),
    ] = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = "TLS13"
    cipher_suites: tuple[Annotated[str, AfterValidator(lambda name: _known(name, (*SUITES, *SUITES_13)))], ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Annotated[str, AfterValidator(lambda name: _known(name, CURVES))], ...] = ()

    @property
    def files(self) -> dict[str, str]:
        """The path of each configured file, by its key in the configuration, such as `cert_file`."""
        paths = {key: getattr(self, key) for key in ("cert_file", "key_file", "client_ca_file")}
        return {key: path for key, path in paths.items() if path}


def _known(name: str, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return name


class HttpServerConfig(_Model):
    http2: bool = True  # accepted without effect: the server offers only HTTP/1.1
    headers: Annotated[dict[str, str], BeforeValidator(_filled)] = {}


class RateLimit(_Model):
    interval: Annotated[float, BeforeValidator(_span)] = 0.0
    burst: Annotated[int, BeforeValidator(_count), Field(ge=0)] = 0


class WebConfig(_Model):
    """Content of a web configuration. `tls_server_config` enables TLS. `basic_auth_users` enables passwords."""

    tls_server_config: TlsServerConfig = TlsServerConfig()
    http_server_config: HttpServerConfig = HttpServerConfig()
    basic_auth_users: dict[str, str] = Field(default={}, repr=False)
    rate_limit: RateLimit = RateLimit()

    @property
    def tls(self) -> bool:
        return bool(self.tls_server_config.model_fields_set)


_KEYS: dict[str, tuple[str, ...]] = {
    "": tuple(WebConfig.model_fields),
    "tls_server_config": tuple(TlsServerConfig.model_fields),
    "http_server_config": tuple(HttpServerConfig.model_fields),
    "rate_limit": tuple(RateLimit.model_fields),
}


@immutable
class Source:
    """A web configuration, with the directory of the file and the line of each value."""

    config: WebConfig
    tree: Node
    directory: Path

    def place(self, key: str) -> Place:
        return self.tree.find(("tls_server_config", key))

    def path(self, key: str) -> Path:
        """Return the path of the file that `key` names. Relative paths start at the directory of the configuration."""
        return self.directory / self.config.tls_server_config.files[key]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(map(self.path, self.config.tls_server_config.files))


def content(path: Path, most: int = MAX_BYTES) -> bytes:
    """Return at most `most` + 1 bytes of a regular file, without blocking.

    Raises OSError if the file is unreadable or is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return stream.read(most + 1)


def load(path: Path) -> Source:
    """Return the web configuration in the file `path`. Raises ConfigError with all problems."""
    try:
        text = content(path)
    except OSError as error:
        problem = Problem(Place(str(path)), f"is unreadable ({error.strerror}); correct the path or the permissions")
        raise ConfigError((str(problem),)) from error
    return parse(str(path), text, path.parent)


def parse(name: str, text: str | bytes, directory: Path) -> Source:
    """Return the web configuration in `text`. Relative paths in the text are relative to `directory`.

    Raises ConfigError with all problems of an invalid configuration. `name` is the name of the file in the messages.
    """
    tree, problems = read(name, text)
    if tree is None:
        raise ConfigError(tuple(map(str, problems)))
    config = WebConfig()
    try:
        config = WebConfig.model_validate(tree.plain())
    except ValidationError as error:
        problems += [problem_of(each, tree, _KEYS) for each in error.errors(include_url=False)]
    problems += [*_tls(tree), *_headers(tree), *_users(tree)]
    if problems:
        problems.sort(key=lambda problem: problem.place.line)
        raise ConfigError(tuple(dict.fromkeys(map(str, problems))))
    return Source(config, tree, directory)


def _tls(tree: Node) -> Iterator[Problem]:
    """Yield a problem for each invalid combination of keys in `tls_server_config`."""
    whole = tree.fields.get("tls_server_config")
    given = {key: node for key, node in (whole.fields if whole else {}).items() if node.value not in (None, "")}
    if whole is None or not given:
        return
    for key in ("cert", "key", "client_ca"):
        if key in given and f"{key}_file" in given:
            yield Problem(given[key].place, f"conflicts with {key}_file; remove one of the two keys")
        elif key != "client_ca" and not {key, f"{key}_file"} & given.keys():
            yield Problem(whole.place, f"has no {key}_file; add this key, because TLS requires it")
    authority = given.get("client_ca_file") or given.get("client_ca")
    auth = given.get("client_auth_type")
    policy = auth.value if auth else "NoClientCert"
    if auth and policy in _VERIFYING and not authority:  # Go would admit every client with a certificate of a public CA
        yield Problem(
            auth.place, f"{policy} requires client_ca_file; set this key to a file with the CAs of the clients"
        )
    if authority and policy == "NoClientCert":
        yield Problem(authority.place, "has no effect without client_auth_type; add this key")
    names = given.get("client_allowed_sans")
    if names and policy != "RequireAndVerifyClientCert":
        yield Problem(
            names.place,
            "requires client_auth_type: RequireAndVerifyClientCert; otherwise the server does not verify these names",
        )
    elif names and names.value == []:
        yield Problem(names.place, "allows no client; add a name, or remove the key")
    least, most = (given[key].value if key in given else None for key in ("min_version", "max_version"))
    least, most = least or "TLS12", most or "TLS13"
    if least in VERSIONS and most in VERSIONS and VERSIONS.index(str(least)) > VERSIONS.index(str(most)):
        yield Problem(given.get("min_version", given.get("max_version", whole)).place, f"{least} is higher than {most}")
    suites = [node.value for node in given["cipher_suites"].items] if "cipher_suites" in given else []
    if suites and most != "TLS13" and not set(suites) - set(SUITES_13):
        yield Problem(
            given["cipher_suites"].place, f"has no cipher suite for {most}; add one, or set max_version to TLS13"
        )
    curves = given.get("curve_preferences")
    if curves and len(curves.items) > 1:  # ssl.SSLContext.set_ecdh_curve takes one
        yield Problem(curves.place, "accepts only one curve; keep a curve that all clients support, or remove the key")


def _headers(tree: Node) -> Iterator[Problem]:
    whole = tree.fields.get("http_server_config")
    for name, node in whole.keys("headers") if whole else ():
        if name not in HEADERS:
            yield Problem(
                node.place,
                f"is not a supported header{suggestion(name, HEADERS) or '; valid headers: ' + ', '.join(HEADERS)}",
            )
        elif not isinstance(value := node.value, str):
            continue
        elif value and not (value.isascii() and value.isprintable()):
            yield Problem(node.place, "must be one line of printable ASCII characters")
        elif HEADERS[name] and value not in HEADERS[name]:
            yield Problem(node.place, f"must be {' or '.join(HEADERS[name])}, not {shown(value)}")


def _users(tree: Node) -> Iterator[Problem]:
    for name, node in tree.keys("basic_auth_users"):
        if ":" in name:
            yield Problem(
                node.place, "has a colon in its name, which basic authentication does not permit; choose another name"
            )
        if not isinstance(node.value, str):
            continue
        if not (parts := _HASH.fullmatch(node.value)) or not 4 <= int(parts[1]) <= 31:
            yield Problem(node.place, "is not a bcrypt hash; create one: htpasswd -nBC 10 \"\" | tr -d ':\\n'")
        elif int(parts[1]) > MOST_COST:
            yield Problem(
                node.place,
                f"has the cost {parts[1]}, with which a check takes so long that clients "
                f"time out; create a hash with a cost of at most {MOST_COST}: htpasswd -nBC 10 \"\" | tr -d ':\\n'",
            )
