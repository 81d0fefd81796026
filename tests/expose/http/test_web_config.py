"""The file format of a web configuration: its fields, and the report of every problem."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from certmond.errors import ConfigError
from certmond.expose.http.access_control import Gate
from certmond.expose.http.web_config import CURVES, SUITES, SUITES_13, WebConfig, load, parse
from tests.conftest import real_part
from tests.web_config_files import PAIR, USERS, VERIFY, WebFiles

HASH = "$2b$04$ijAd9uJcYV3NIMbT5lSoke/T4t7miIGURy9ljYBsfTUvT5C1E56Ey"  # of "secret", as cheap as may be


def reported(text: str | bytes) -> list[str]:
    """Return all problems of a configuration with this text."""
    with pytest.raises(ConfigError) as caught:
        parse("web.yaml", text, Path("/etc/certmond"))
    return list(caught.value.problems)


def read(text: str) -> WebConfig:
    return parse("web.yaml", text, Path("/etc/certmond")).config


def test_everything() -> None:
    """Each key of the format is read with its documented meaning; relative paths begin beside the file."""
    source = parse(
        "web.yaml",
        f"""
tls_server_config:
  cert_file: web/tls.crt
  key_file: /var/lib/web/tls.key
  client_ca_file: ../ca.crt
  client_auth_type: RequireAndVerifyClientCert
  client_allowed_sans: [prometheus.example, 192.0.2.1]
  min_version: TLS11
  max_version: TLS12
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP384]
http_server_config:
  http2: true
  headers:
    Strict-Transport-Security: max-age=300
    X-Frame-Options: sameorigin
basic_auth_users:
  alice: {HASH}
  "123": {HASH}
rate_limit:
  interval: 1m0.5s
  burst: 20
""",
        Path("/etc/certmond"),
    )
    tls, config = source.config.tls_server_config, source.config
    assert source.paths == tuple(map(Path, ("/etc/certmond/web/tls.crt", "/var/lib/web/tls.key",
                                            "/etc/certmond/../ca.crt")))  # fmt: skip
    assert (tls.client_auth_type, tls.client_allowed_sans) == (
        "RequireAndVerifyClientCert", ("prometheus.example", "192.0.2.1"),
    )  # fmt: skip
    assert (tls.min_version, tls.max_version, tls.prefer_server_cipher_suites) == ("TLS11", "TLS12", False)
    assert (tls.cipher_suites, tls.curve_preferences) == (("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",), ("CurveP384",))
    assert config.http_server_config.headers == {
        "Strict-Transport-Security": "max-age=300", "X-Frame-Options": "sameorigin",
    }  # fmt: skip
    assert config.basic_auth_users == {"alice": HASH, "123": HASH}
    assert (config.rate_limit.interval, config.rate_limit.burst) == (60.5, 20)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n", "tls_server_config: {}"]
)
def test_nothing(text: str) -> None:
    """An empty file, and keys without a value, configure nothing: no TLS, no password."""
    assert not read(text).tls
    assert read(text) == WebConfig() or read(text).basic_auth_users == {}


def test_defaults() -> None:
    """By default the server speaks TLS 1.2 and 1.3, and requests no client certificate."""
    tls = read(PAIR).tls_server_config
    assert (tls.min_version, tls.max_version, tls.client_auth_type) == ("TLS12", "TLS13", "NoClientCert")
    assert tls.prefer_server_cipher_suites
    assert read(PAIR + '  client_auth_type: ""\n').tls_server_config.client_auth_type == "NoClientCert"


def test_every_problem_at_once() -> None:
    """All problems are reported at once, each with its file, line and key, and with the remedy."""
    text = f"""tls_server_config:
  cert_file: nope.crt
  min_version: TLS13
  max_version: TLS12
  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]
  client_auth_type: RequireAnyClientCert
  client_allowed_sans: [a]
  curve_preferences: [X25519, CurveP256]
  client_ca_fil: x
http_server_config:
  http2: maybe
  headers:
    X-Frame-Options: allow
    X-Frame-Option: deny
    Content-Security-Policy: "a\\r\\nSet-Cookie: b"
basic_auth_users:
  a: plain
  "b:c": {HASH}
  d: {HASH.replace("$04$", "$31$")}
rate_limit: {{interval: soon, burst: -1}}
rate_limits: 1
"""
    problems = reported(text)
    wanted = {
        (1, "tls_server_config", "has no key_file"),
        (3, "tls_server_config.min_version", "TLS13 is higher than TLS12"),
        (5, "tls_server_config.cipher_suites[0]", "must be one of TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "),
        (
            6,
            "tls_server_config.client_auth_type",
            "RequireAnyClientCert admits every client that has a",
        ),
        (7, "tls_server_config.client_allowed_sans", "requires client_auth_type: RequireAndVerifyClientCert"),
        (8, "tls_server_config.curve_preferences", "accepts only one curve"),
        (9, "tls_server_config.client_ca_fil", "unknown key; did you mean client_ca_file?"),
        (11, "http_server_config.http2", "must be true or false, not 'maybe'"),
        (13, "http_server_config.headers.X-Frame-Options", "must be deny or sameorigin, not 'allow'"),
        (14, "http_server_config.headers.X-Frame-Option", "is not a supported header; did you mean X-Frame-Options?"),
        (15, "http_server_config.headers.Content-Security-Policy", "must be one line of printable ASCII characters"),
        (17, "basic_auth_users.a", "is not a bcrypt hash; create one: htpasswd -nBC 10"),
        (18, "basic_auth_users.'b:c'", "has a colon in its name"),
        (
            19,
            "basic_auth_users.d",
            "has the cost 31, with which a check takes so long that clients time out; create a hash",
        ),
        (20, "rate_limit.interval", "must be a duration such as 500ms or 1m30s"),
        (20, "rate_limit.burst", "must be an integer"),
        (21, "rate_limits", "unknown key; did you mean rate_limit?"),
    }
    found = {(line, path, fact) for line, path, fact in wanted
             if any(each.startswith(f"web.yaml:{line}: {path}: {fact}") for each in problems)}  # fmt: skip
    assert found == wanted
    assert len(problems) == len(wanted), problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tls_server_config:\n  key_file: a.key\n", "web.yaml:1: tls_server_config: has no cert_file"),
        (PAIR + "  cert: x\n", "web.yaml:4: tls_server_config.cert: conflicts with cert_file"),
        (PAIR + "  key: x\n", "web.yaml:4: tls_server_config.key: conflicts with key_file"),
        (PAIR + "  client_ca_file: x\n  client_ca: x\n  client_auth_type: VerifyClientCertIfGiven\n",
         "web.yaml:5: tls_server_config.client_ca: conflicts with client_ca_file"),
        (PAIR + "  client_ca_file: x\n", "web.yaml:4: tls_server_config.client_ca_file: has no effect without"),
        (PAIR + "  client_auth_type: RequireAndVerifyClientCert\n",
         "web.yaml:4: tls_server_config.client_auth_type: RequireAndVerifyClientCert requires client_ca_file"),
        (PAIR + "  client_auth_type: VerifyClientCertIfGiven\n",
         "web.yaml:4: tls_server_config.client_auth_type: VerifyClientCertIfGiven requires client_ca_file"),
        (PAIR + "  client_auth_type: RequireClientCert\n",
         "web.yaml:4: tls_server_config.client_auth_type: RequireClientCert admits every client"),
        (PAIR + "  client_auth_type: Require\n",
         "web.yaml:4: tls_server_config.client_auth_type: must be 'NoClientCert', 'RequestClientCert', "),
        (PAIR + "  client_ca_file: x\n  client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: []\n",
         "web.yaml:6: tls_server_config.client_allowed_sans: allows no client"),
        (PAIR + "  max_version: TLS11\n", "web.yaml:4: tls_server_config.max_version: TLS12 is higher than TLS11"),
        (PAIR + "  min_version: SSL30\n", "web.yaml:4: tls_server_config.min_version: must be 'TLS10', 'TLS11', "),
        (PAIR + "  max_version: TLS12\n  cipher_suites: [TLS_AES_128_GCM_SHA256]\n",
         "web.yaml:5: tls_server_config.cipher_suites: has no cipher suite for TLS12"),
        (PAIR + "  curve_preferences: [P256]\n",
         "web.yaml:4: tls_server_config.curve_preferences[0]: must be one of CurveP256, "),
        ("http_server_config:\n  headers:\n    X-Content-Type-Options: sniff\n",
         "web.yaml:3: http_server_config.headers.X-Content-Type-Options: must be nosniff, not 'sniff'"),
        ("basic_auth_users: [alice]\n", "web.yaml:1: basic_auth_users: must be a mapping"),
        (f"basic_auth_users:\n  null: {HASH}\n", "web.yaml:2: basic_auth_users: contains a key that is not text"),
        (f"basic_auth_users:\n  yes: {HASH}x\n", "web.yaml:2: basic_auth_users.yes: is not a bcrypt hash"),
        (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "web.yaml:3: basic_auth_users.a: repeats the key of line 2"),
        (f"basic_auth_users:\n  a: {HASH[:-1]}\n", "web.yaml:2: basic_auth_users.a: is not a bcrypt hash"),
        (f"basic_auth_users:\n  a: {HASH.replace('$04$', '$03$')}\n", "web.yaml:2: basic_auth_users.a: is not a"),
        ("- a\n", "web.yaml:1: must be a mapping"),
        ("a: [\n", "web.yaml:2: is not YAML"),
    ],
)  # fmt: skip
def test_one_problem(text: str, problem: str) -> None:
    """A single mistake or contradiction is one problem at its place."""
    problems = reported(text)
    assert len(problems) == 1, problems
    assert problems[0].startswith(problem)


@pytest.mark.parametrize("key", ["cert", "key", "client_ca"])
def test_no_secret_is_in_a_message(key: str) -> None:
    """No problem and no repr of a configuration quotes a key or a hash."""
    secret = "-----BEGIN PRIVATE KEY----- MIIsecret"
    problems = reported(
        f"tls_server_config:\n  {key}: {secret}\n  x: 1\nbasic_auth_users:\n  a: {HASH}x\n  b: {HASH}\n"
    )
    assert "MIIsecret" not in str(problems)
    assert HASH[8:20] not in str(problems)
    source = parse("f", f"tls_server_config: {{cert: c, key: {secret}}}\nbasic_auth_users: {{b: {HASH}}}", Path())
    assert "MIIsecret" not in repr(source.config)
    assert HASH not in repr(source.config)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo"])
def test_file_that_cannot_be_read(tmp_path: Path, kind: str) -> None:
    """A configuration that is missing or no file is reported with its path, without a wait."""
    path = tmp_path / "web.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(ConfigError, match=rf"{path}: is unreadable \(.*\); correct the path or the permissions"):
        load(path)


@pytest.mark.long
@pytest.mark.real("go")
def test_names_are_those_of_go(tmp_path: Path) -> None:
    """The cipher suites are those that Go's crypto/tls offers, by its names, and the curves are known there."""
    (tmp_path / "main.go").write_text(
        'package main\nimport ("crypto/tls"; "encoding/json"; "os")\nfunc main() {\n'
        "  var names []string\n  for _, suite := range tls.CipherSuites() { names = append(names, suite.Name) }\n"
        "  for _, curve := range []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.X25519} "
        "{ names = append(names, curve.String()) }\n  json.NewEncoder(os.Stdout).Encode(names)\n}\n"
    )
    environment = {"GOCACHE": str(tmp_path / "cache")} if "HOME" not in os.environ else {}
    environment |= {**os.environ, "GO111MODULE": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    command = [real_part("go"), "run", "main.go"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert set(json.loads(run.stdout)) == {*SUITES, *SUITES_13, *CURVES}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.real("promtool")
@pytest.mark.parametrize(
    ("text", "good"),
    [
        (VERIFY + USERS, True),
        (PAIR + "  client_auth_type: RequestClientCert\n", True),
        (PAIR + "  client_ca_file: clients.crt\n  client_auth_type: VerifyClientCertIfGiven\n", True),
        (PAIR + f"  cipher_suites: [{', '.join((*SUITES, *SUITES_13))}]\n", True),
        (PAIR + "  min_version: TLS10\n  max_version: TLS11\n  curve_preferences: [CurveP521]\n", True),
        (PAIR + "  prefer_server_cipher_suites: false\nhttp_server_config: {http2: false}\n", True),
        ("http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection:\n", True),
        ("", True),
        (PAIR + "  client_ca_file: clients.crt\n", False),
        (PAIR + "  client_auth_type: Require\n", False),
        (PAIR + "  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n", False),
        (PAIR + "  colour: red\n", False),
        (PAIR + "  min_version: SSL30\n", False),
        ("tls_server_config:\n  cert_file: tls.crt\n", False),
        ("basic_auth_users:\n  a: plain\n", False),
        ("http_server_config:\n  headers:\n    X-Foo: bar\n", False),
        ("http_server_config:\n  headers:\n    X-Frame-Options: allow\n", False),
    ],
)
def test_promtool_agrees(tmp_path: Path, text: str, good: bool) -> None:
    """`promtool check web-config` accepts what certmond accepts, and certmond refuses what it refuses."""
    web_files = WebFiles(tmp_path)
    web_files.write(text)
    command = [real_part("promtool"), "check", "web-config", str(web_files.path)]
    theirs = subprocess.run(command, capture_output=True, check=False)
    assert (theirs.returncode == 0) is good, theirs.stderr
    if good:
        Gate(web_files.path)
    else:
        with pytest.raises(ConfigError):
            Gate(web_files.path)
