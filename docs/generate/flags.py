"""Reference of the flags that certmond follows, from the table in the code."""

from __future__ import annotations

from certmond.pki.catalog.component_certificate_flags import FLAGS, REQUESTED, FileKind, Flag, Role

_CONTENTS = {
    Role.SERVER: "certificate for clients, and key",
    Role.CLIENT: "certificate for servers, and key",
    Role.SIGNER: "CA that signs, and key",
    Role.TRUST: "trusted CAs",
    Role.KUBECONFIG: "kubeconfig",
    Role.KEY: "key, not watched",
    Role.SOCKET: "socket of an external signer, `not_watched`",
}

_HEAD = """# Flags that name certificates

Every flag and field that certmond follows, generated from the code. [References](../references.md) describes the
entries that certmond makes from them. A source without a repository is a file of kubernetes/kubernetes.

| component | flag or field | key | contents | source |
|---|---|---|---|---|
"""


def reference() -> str:
    """Return docs/reference/flags.md."""
    return _HEAD + "".join(map(_row, FLAGS))


def _row(flag: Flag) -> str:
    if flag.pair:
        key = f"`{flag.pair}.key` in the directory"
    elif flag.repeated and flag.role is Role.SERVER:
        key = "in the value"
    elif flag.name == REQUESTED:
        key = "in the same file"
    else:
        key = f"`{flag.key_flag}`" if flag.key_flag else ""
    contents = _contents(flag.kind) if flag.kind else _CONTENTS[flag.role]
    return f"| {flag.component} | `{flag.name}` | {key} | {contents} | {flag.source} |\n"


def _contents(kind: FileKind) -> str:
    return kind.value if kind is FileKind.ETCD else f"`{kind.value}`"
