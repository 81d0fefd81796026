"""The manual pages, in roff: certmond(8) and one for each verb from the command line, certmond.yaml(5) from the
configuration's schema.

Owns the roff, and the texts that are neither of a verb nor of a key.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from importlib.metadata import metadata

from docs.generate import commands, configuration

_EXITS = (
    ("0", "No finding, or all steps are done."),
    ("1", "A warning. `plan`: steps, or a due certificate without a step. A verb that acts: a step waits."),
    ("2", "A critical finding. `plan`: one that no step clears. A verb that acts: a step failed, or was refused."),
    ("3", "Unknown, or not begun: an invalid configuration, a wrong option, no certificate found, no daemon."),
    ("130", "Interrupted from the keyboard."),
)  # fmt: skip
_FILES = (
    ("/etc/certmond/config.yaml", "The configuration, certmond.yaml(5). The file is optional."),
    ("/etc/certmond/conf.d/*.yaml", "More configuration, merged in the order of the names."),
    ("/run/certmond/metrics.prom", "The metrics of the last pass, in the format of the textfile collector."),
    ("/run/certmond/status.json", "The assessment of the last pass: `certmond status`."),
    ("/run/certmond/activity.json", "The activity of the daemon: the plan, a rotation in progress, the last events."),
    ("/run/certmond/heartbeat.json", "The heartbeat of the daemon, and the time of its last pass."),
    ("/var/lib/certmond/archive/", "The replaced files: `certmond archive list`. It contains private keys."),
    ("/var/lib/certmond/rotation/", "The record of a rotation and, during a rotation, both CAs with their keys."),
    ("/var/lib/certmond/audit.log", "Each step that changed the node, and the user who caused it."),
)
_SIGNALS = (
    ("SIGHUP", "Of `run`: read the configuration again. If it has problems, the daemon keeps the old one."),
    ("SIGTERM, SIGINT", "Of `run`: stop after the current step. Of `serve`: stop."),
)
_ENVIRONMENT = (
    ("CREDENTIALS_DIRECTORY", "Directory of the credential that `passphrase` of a signer names, set by systemd."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS", "Set by systemd for a unit."),
)
_EXAMPLES = (
    ("certmond check -o wide", "Check the node once, with serial numbers, subjects, paths and served certificates."),
    ("certmond explain key_mismatch", "Print the meaning of a finding, how to inspect it, and the remedy."),
    ("certmond check --root /mnt --at 2027-11-10T00:00:00Z", "Check a mounted disk, as of another day."),
    ("certmond renew apiserver --dry-run", "Print the steps and restarts of the renewal of one certificate."),
    ("certmond root-ca rotate --plan", "Print the changes of a rotation of the Root CA, by phase."),
)
_DAEMON = """certmond watches the certificates of a Kubernetes node: pairs of files, the certificates and CAs in
kubeconfigs, and the PEM file that the kubelet rotates. It validates each path to a trust anchor, exports
dates and findings to Prometheus, and compares the served certificates with the files. By default, it only
reads and reports, and writes only to its own directories. With `mode: enforce` in its configuration, it
renews certificates that are due, restarts the services that use an older one, verifies that they serve the
new one, and rotates Root CAs. On a single node, it needs no API server.

`certmond run` is the daemon. It reads keys and does not listen on any port. `certmond serve` listens and
can read no key. Every other verb reads the node itself and needs neither process, except `status`, which
prints the last assessment of the daemon."""
_FORMAT = """/etc/certmond/config.yaml and the files of /etc/certmond/conf.d/ configure certmond(8) on a node. Each is
one YAML document in UTF-8. certmond merges them over the profile that `profile` names: an entry of
`certificates` or `services` with the name of an earlier entry changes the fields that it contains.

A duration is `90s`, `12h`, `30d`, `1y` (365 days) or a combination. A file mode is octal. A single value is
accepted in the place of a list. An unknown key is an error. `certmond config validate` prints every
problem."""

_WRITTEN = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "…": "..."}


def program() -> str:
    """Return docs/man/certmond.8."""
    parts = [
        _head("certmond", 8),
        _section("Name") + f"certmond \\- {_inline(metadata('certmond')['Summary'])}\n",
        _section("Synopsis") + "\\fBcertmond\\fP [\\fIOPTION\\fP]... \\fIVERB\\fP [\\fIARGUMENT\\fP]...\n",
        _section("Description") + _paragraphs(_DAEMON),
        _section("Options"),
        "Give them before or after the verb.\n",
        _options(commands.shared()),
        _section("Verbs"),
    ]
    for verb in commands.verbs():
        parts += [f".SS {_escape(verb.usage)}\n", _paragraphs(verb.meaning), _options(verb.options)]
    for title, rows in (
        ("Exit status", _EXITS),
        ("Files", _FILES),
        ("Signals", _SIGNALS),
        ("Environment", _ENVIRONMENT),
    ):
        parts += [_section(title), *(_tagged(f"\\fB{_escape(name)}\\fP", meaning) for name, meaning in rows)]
    parts.append(_section("Examples"))
    parts += [_tagged(f"\\fB{_escape(example)}\\fP", meaning) for example, meaning in _EXAMPLES]
    pages = ", ".join(f"{_page(group.name)}(8)" for group in commands.groups())
    return "".join((*parts, _see_also(rf"{pages}, \fBcertmond.yaml\fP(5), \fBsystemctl\fP(1), \fBjournalctl\fP(1)")))


def verb(group: commands.Group) -> str:
    """Return docs/man/certmond-VERB.8, the page of `man certmond VERB`. Verbs of one group share a page."""
    summary = re.split(r"[.;]( |$)", group.meaning)[0]
    options = "The options of every verb are those of \\fBcertmond\\fP(8).\n"
    parts = [
        _head(f"certmond-{group.name}", 8),
        _section("Name") + f"certmond-{group.name} \\- {_escape(summary.replace('`', ''))}\n",
        _section("Synopsis") + "\n.br\n".join(_escape(verb.usage) for verb in group.verbs) + "\n",
        _section("Description") + _paragraphs(group.meaning),
    ]
    if group.verbs[0].name == group.name:
        parts.append(_section("Options") + _options(group.verbs[0].options) + f".PP\n{options}")
    else:
        parts.append(_section("Verbs"))
        for verb in group.verbs:
            parts += [f".SS {_escape(verb.usage)}\n", _paragraphs(verb.meaning), _options(verb.options)]
        parts.append(_section("Options") + options)
    exits = (_tagged(f"\\fB{status}\\fP", meaning) for status, meaning in _EXITS)
    return "".join((*parts, _section("Exit status"), *exits, _see_also(r"\fBcertmond\fP(8), \fBcertmond.yaml\fP(5)")))


def file() -> str:
    """Return docs/man/certmond.yaml.5."""
    parts = [
        _head("certmond.yaml", 5),
        _section("Name") + "certmond.yaml \\- the configuration of certmond\n",
        _section("Synopsis") + "/etc/certmond/config.yaml\n.br\n/etc/certmond/conf.d/*.yaml\n",
        _section("Description") + _paragraphs(_FORMAT),
    ]
    for section in configuration.sections():
        parts.append(_section(f"Keys of {section.name}" if section.name else "Keys of the file"))
        parts.append(_paragraphs(("A list of entries. " if section.many else "") + section.explanation))
        for key in section.keys:
            kind = re.sub(r"\[(\w+)\]\(#\w+\)", "mapping", key.type)
            facts = f"{kind}; {key.default}" if key.default == "required" else kind
            facts += f"; default {key.default}" if key.default.startswith("`") else ""
            parts.append(_tagged(f"\\fB{_escape(key.name)}\\fP ({_bold(facts)})", key.meaning))
    example = "mode: enforce\ncertificates:\n  - name: nginx\n    path: /etc/nginx/tls/*.pem\n    usages: server auth\n"
    parts.append(_section("Examples") + f".nf\n{_escape(example)}.fi\n")
    return "".join((*parts, _see_also(r"\fBcertmond\fP(8)")))


def _head(name: str, section: int) -> str:
    return (
        '.\\" Generated by `python -m docs.generate`; do not edit.\n'
        f'.TH {_escape(name.upper())} {section} "" "certmond {metadata("certmond")["Version"]}" "certmond"\n'
    )


def _page(name: str) -> str:
    return f"\\fBcertmond\\-{_escape(name)}\\fP"


def _options(options: Iterable[commands.Option]) -> str:
    return "".join(_tagged(f"\\fB{_escape(option.written)}\\fP", option.meaning) for option in options)


def _section(title: str) -> str:
    return f".SH {title.upper()}\n"


def _see_also(pages: str) -> str:
    return f"{_section('See also')}{pages}\n"


def _paragraphs(text: str) -> str:
    return "\n.PP\n".join(_inline(" ".join(part.split())) for part in text.split("\n\n")) + "\n"


def _tagged(tag: str, meaning: str) -> str:
    return f".TP\n{tag}\n{_inline(meaning)}\n"


def _inline(text: str) -> str:
    """Return the text with each sentence on a separate line, as roff expects, and long lines wrapped."""
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z`])", text)
    lines = "\n".join(line for sentence in sentences for line in textwrap.wrap(sentence, 70, break_on_hyphens=False))
    return _bold(lines)


def _bold(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"\\fB\1\\fP", _escape(text))


def _escape(text: str) -> str:
    """Return the text for roff: hyphens that can be copied, no line that is a request, only ASCII."""
    for character, written in _WRITTEN.items():
        text = text.replace(character, written)
    return re.sub(r"(?m)^\.", r"\\&.", text)
