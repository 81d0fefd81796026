"""The JSON documents and the tables of `certmond root-ca show` and `certmond root-ca verify`.

The schemas of both documents are stable. The documents contain no private key.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.rotation.ca_family import Family
from certmond.pki.rotation.ca_validation import Verdict
from certmond.pki.rotation.service_account_key_validation import TokenKeys
from certmond.pki.x509.certificate import Anchor, Certificate
from certmond.pki.x509.public_key import PublicKey

SCHEMA = 1
_FACTS = ("subject", "serial", "serial_hex", "sha256", "pin", "key", "not_before", "not_after")
_YES_NO = {True: "yes", False: "no", None: "unreadable"}
_STYLES = {"refused": "bold red", "warning": "yellow", "fit": "green"}


@immutable
class StagedFacts:
    """Public facts about a staged CA or public key.

    `fault` is the reason why certmond cannot use the staged files, or None.
    """

    part: str
    family: str
    anchor: Anchor | None
    has_key: bool
    fault: str | None


def pin(certificate: Certificate) -> str:
    """Return the hash of the public key for `kubeadm join --discovery-token-ca-cert-hash`."""
    return f"sha256:{certificate.key.sha256}"


def show_document(
    family: Family | TokenKeys, staged: Sequence[StagedFacts], rotation: dict[str, Any] | None, now: datetime
) -> dict[str, Any]:
    """Return the document of `certmond root-ca show` about the present CAs and the `staged` CAs of the node.

    For the family `sa`, the document contains the public keys that verify service-account tokens.
    """
    return {
        "schema": SCHEMA,
        "taken_at": _time(now),
        "family": family.spec.name,
        "path": family.spec.path,
        "present": [
            {
                **facts(anchor),
                "key_here": None if family.key is None and family.holds_key else family.key == anchor.key,
                "signs": _signed(family, anchor, now),
            }
            for anchor in family.trusted
        ],
        "staged": [
            {
                "part": each.part,
                "family": each.family,
                "key_here": each.has_key,
                "fault": each.fault,
                "certificate": facts(each.anchor) if each.anchor else None,
            }
            for each in staged
        ],
        "rotation": rotation,
    }


def verify_document(
    path: str, family: Family, candidate: Certificate | None, verdict: Verdict, now: datetime
) -> dict[str, Any]:
    """Return the document of `certmond root-ca verify` about the CA in the file `path`.

    The verdict in the document is `fit`, `warning` or `refused`.
    """
    chained = [leaf.name for leaf in family.signed_by(candidate, now)] if candidate else []
    return {
        "schema": SCHEMA,
        "taken_at": _time(now),
        "family": family.spec.name,
        "path": path,
        "verdict": "refused" if verdict.problems else "warning" if verdict.warnings else "fit",
        "mode": None if verdict.problems else verdict.mode,
        "certificate": facts(candidate) if candidate else None,
        "problems": list(verdict.problems),
        "warnings": list(verdict.warnings),
        "leaves": [{"name": leaf.name, "path": leaf.path, "chains": leaf.name in chained} for leaf in family.leaves],
    }


def _signed(family: Family | TokenKeys, anchor: Anchor, now: datetime) -> list[str]:
    if isinstance(anchor, PublicKey) or isinstance(family, TokenKeys):
        return []
    return [leaf.name for leaf in family.signed_by(anchor, now)]


def facts(certificate: Anchor) -> dict[str, Any]:
    """Return the facts about a CA certificate or a public key.

    For a public key, the facts that only a certificate has, such as the subject, are None.
    """
    if isinstance(certificate, PublicKey):
        known = {"sha256": certificate.sha256, "key": str(certificate)}
        return dict.fromkeys(_FACTS) | known
    return {
        "subject": certificate.subject,
        "serial": str(certificate.serial),
        "serial_hex": certificate.serial_hex,
        "sha256": certificate.sha256,
        "pin": pin(certificate),
        "key": str(certificate.key),
        "not_before": _time(certificate.not_before),
        "not_after": _time(certificate.not_after),
    }


def show_table(document: dict[str, Any], wide: bool = False) -> RenderableType:
    """Return the output of `certmond root-ca show`: the present CAs with their leaves, the staged CAs, and the
    rotation.
    """
    table = _table(
        "CA", "SUBJECT", "KEY", "FROM", "UNTIL", "KEY HERE", "SIGNS", *(("SERIAL", "SHA256") if wide else ())
    )
    for each in document["present"]:
        table.add_row(*_cells("installed", each, each["key_here"], wide, f"{len(each['signs'])} here"))
    for each in document["staged"]:
        if each["certificate"]:
            table.add_row(*_cells(f"staged ({each['part']})", each["certificate"], each["key_here"], wide, "-"))
    return Group(table, *_below(document))


def _below(document: dict[str, Any]) -> Iterator[RenderableType]:
    yield Text()
    staged = [each["certificate"] for each in document["staged"] if each["certificate"]]
    for each in (*document["present"], *staged):
        if each["pin"] is None:
            yield Text(printable(f"public key with the SHA-256 {each['sha256']}"))
            continue
        yield Text(printable(f"{each['pin']}  serial {each['serial_hex']}"))
    for each in document["present"]:
        if each["signs"]:
            yield Text(printable(f"serial {each['serial_hex']} signed {', '.join(each['signs'])}"))
    for fault in dict.fromkeys(each["fault"] for each in document["staged"] if each["fault"]):
        yield Text(printable(fault), style=_STYLES["refused"])
    for each in document["staged"]:
        if not each["fault"] and each["family"] != document["family"]:
            yield Text(printable(f"the staged CA ({each['part']}) is for {each['family']}"))
    rotation = document["rotation"]
    if rotation is None:
        faults = any(each["fault"] for each in document["staged"])
        yield from () if faults else (Text("no rotation is in progress"),)  # unknown if a staged file has a fault
    elif not rotation["phase"]:
        remedy = (
            "restore rotation/record.json in the state directory, or remove this file if no rotation is in progress"
        )
        yield Text(f"certmond cannot read the record of a rotation; {remedy}", style=_STYLES["refused"])
    else:
        place = rotation["released"]
        more = "" if place is None else f", about {place:.0%} of the workers may act"
        yield Text(printable(f"rotation {rotation['id']} of {rotation['family']}: phase {rotation['phase']}{more}"))


def verify_table(document: dict[str, Any], wide: bool = False) -> RenderableType:
    """Return the output of `certmond root-ca verify`: the verdict, the reasons, and a table of the leaves."""
    said = document["verdict"]
    head = {"refused": "is not fit as a Root CA", "warning": "is fit, with warnings,", "fit": "is fit"}[said]
    mode = f" (mode {document['mode']})" if document["mode"] else ""
    lines = [Text(printable(f"{document['path']} {head} for {document['family']}{mode}"), style=_STYLES[said])]
    lines += [Text(f"refused  {each}") for each in document["problems"]]
    lines += [Text(f"warning  {each}") for each in document["warnings"]]
    if certificate := document["certificate"]:
        lines.append(Text(printable(f"{certificate['subject']}, {certificate['key']}, {certificate['pin']}")))
    table = _table("LEAF", "CHAINS TO IT", *(("PATH",) if wide else ()))
    for leaf in document["leaves"]:
        cells = (leaf["name"], "yes" if leaf["chains"] else "no", *((leaf["path"],) if wide else ()))
        table.add_row(*map(Text, map(printable, cells)))
    return Group(*lines, Text(), table)


def _cells(state: str, each: dict[str, Any], key_here: bool | None, wide: bool, signs: str) -> Iterator[Text]:
    ends = (each["not_before"], each["not_after"])
    dates = (f"{datetime.fromisoformat(end):%Y-%m-%d}" if end else "-" for end in ends)
    more = (each["serial_hex"] or "-", each["sha256"]) if wide else ()
    return map(
        Text, map(printable, (state, each["subject"] or "-", each["key"], *dates, _YES_NO[key_here], signs, *more))
    )


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    return table


def _time(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")
