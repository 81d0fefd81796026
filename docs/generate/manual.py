"""The manual pages, in roff: certmond(8) and one for each verb from the command line, certmond.yaml(5) from the
configuration's schema.

Owns the roff. What verbs and keys mean is theirs; what stands here besides is said nowhere else in this form.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from importlib.metadata import metadata

from docs.generate import commands, configuration

_EXITS = (
    ("0", "All well; what was asked for is done."),
    ("1", "A warning stands. Of `plan`: there is something to do. Of a verb that acts: something waits."),
    ("2", "A critical finding stands. Of a verb that acts: something failed, or was refused."),
    ("3", "Could not tell, or not begin: a broken configuration, a wrong option, nothing to look at, no daemon."),
    ("130", "Interrupted from the keyboard."),
)  # fmt: skip
_FILES = (
    ("/etc/certmond/config.yaml", "The configuration, certmond.yaml(5). It may be missing."),
    ("/etc/certmond/conf.d/*.yaml", "More of it, laid over it in the order of their names."),
    ("/run/certmond/metrics.prom", "The metrics of the last pass; a textfile for node_exporter as it stands."),
    ("/run/certmond/status.json", "What the last pass found: `certmond status`."),
    ("/run/certmond/activity.json", "What the daemon does: the plan, a rotation that is under way, the last events."),
    ("/run/certmond/heartbeat.json", "That the daemon is alive, and when it looked last."),
    ("/var/lib/certmond/archive/", "What was replaced: `certmond archive list`. It holds private keys."),
    ("/var/lib/certmond/rotation/", "The record of a rotation and, while one is under way, both CAs with their keys."),
    ("/var/lib/certmond/audit.log", "Each step that changed the node, and who caused it."),
)
_SIGNALS = (
    ("SIGHUP", "Of `run`: read the configuration again. One with problems is refused, and the old one stays in force."),
    ("SIGTERM, SIGINT", "Of `run`: stop after the step that is under way. Of `serve`: stop."),
)
_ENVIRONMENT = (
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the credential that `passphrase` of a signer names."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS", "As systemd sets them for a unit."),
)
_EXAMPLES = (
    ("certmond check -o wide", "Look once, with serial numbers, subjects, paths and what is served."),
    ("certmond explain key_mismatch", "What a finding means, how to see it, what to do."),
    ("certmond check --root /mnt --at 2027-11-10T00:00:00Z", "Judge a mounted disk, as of another day."),
    ("certmond renew apiserver --dry-run", "What renewing one certificate would do and restart."),
    ("certmond root-ca rotate --plan", "What a rotation of the Root CA would change, phase by phase."),
)
_DAEMON = """certmond knows every certificate that a Kubernetes node lives by: pairs of files, the certificates and CAs
inside kubeconfigs, the PEM that the kubelet rotates. It proves each chain, reports dates and findings to
Prometheus, and compares what is served with what is on disk. By default it observes, and writes nothing outside
its own directories. With `mode: enforce` in its configuration it renews what is due, restarts what holds an
older certificate, proves that the new one is served, and carries out rotations of Root CAs. It needs no API
server for what concerns one node.

`certmond run` is the daemon; it reads keys and listens on nothing. `certmond serve` listens and can read no
key. Every other verb looks for itself and needs neither, save `status`, which prints what the daemon last saw."""
_FORMAT = """/etc/certmond/config.yaml and the files of /etc/certmond/conf.d/ say what certmond(8) is to do on a node.
Each is one YAML document in UTF-8, and all of them are laid over the profile that `profile` names: an entry of
`certificates` or `services` with the name of an earlier one changes the fields that it gives.

A duration is `90s`, `12h`, `30d`, `1y` (365 days) or several together. A file mode is octal. Where a list is
expected, one value is a list of one. A key that is not known is an error; `certmond config validate` tells
every problem at once."""

_WRITTEN = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "…": "..."}


def program() -> str:
    """docs/man/certmond.8."""
    parts = [
        _head("certmond", 8),
        _section("Name") + f"certmond \\- {_inline(metadata('certmond')['Summary'])}\n",
        _section("Synopsis") + "\\fBcertmond\\fP [\\fIOPTION\\fP]... \\fIVERB\\fP [\\fIARGUMENT\\fP]...\n",
        _section("Description") + _paragraphs(_DAEMON),
        _section("Options"),
        "These are taken before the verb and after it.\n",
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
    """docs/man/certmond-VERB.8: what `man certmond VERB` shows. Verbs below one name share its page."""
    told = re.split(r"[.;]( |$)", group.meaning)[0]
    options = "The options of every verb are those of \\fBcertmond\\fP(8).\n"
    parts = [
        _head(f"certmond-{group.name}", 8),
        _section("Name") + f"certmond-{group.name} \\- {_escape(told.replace('`', ''))}\n",
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
    """docs/man/certmond.yaml.5."""
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
            kind = re.sub(r"\[(\w+)\]\(#\w+\)", "keys of their own", key.type)
            facts = f"{kind}; {key.default}" if key.default == "required" else kind
            facts += f"; default {key.default}" if key.default.startswith("`") else ""
            parts.append(_tagged(f"\\fB{_escape(key.name)}\\fP ({_bold(facts)})", key.meaning))
    example = "mode: enforce\ncertificates:\n  - name: nginx\n    path: /etc/nginx/tls/*.pem\n    usages: server auth\n"
    parts.append(_section("Examples") + f".nf\n{_escape(example)}.fi\n")
    return "".join((*parts, _see_also(r"\fBcertmond\fP(8)")))


def _head(name: str, section: int) -> str:
    return (
        '.\\" Made by `python -m docs.generate`; a change here is lost.\n'
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
    """Each sentence on a line of its own, as roff likes it, broken where it is long."""
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z`])", text)
    lines = "\n".join(line for sentence in sentences for line in textwrap.wrap(sentence, 70, break_on_hyphens=False))
    return _bold(lines)


def _bold(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"\\fB\1\\fP", _escape(text))


def _escape(text: str) -> str:
    """Text as roff prints it: hyphens that can be copied, no line that is a request, and nothing beyond ASCII."""
    for character, written in _WRITTEN.items():
        text = text.replace(character, written)
    return re.sub(r"(?m)^\.", r"\\&.", text)
