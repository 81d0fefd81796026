"""The vocabulary: its names are a contract, and its severities have an order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.pki import findings
from certmond.pki.findings import Blocks, Fault, Finding, Reason, Remedy, Severity, printable


def test_the_severities_rank_as_the_exit_codes_of_a_monitoring_plugin() -> None:
    """Information is 0, a warning 1, something critical 2."""
    assert [severity.rank for severity in (Severity.INFO, Severity.WARNING, Severity.CRITICAL)] == [0, 1, 2]
    assert {severity.value for severity in Severity} == {"info", "warning", "critical"}


def test_every_promised_reason_exists_as_a_label() -> None:
    """No documented name is removed or renamed, and each is snake_case, valid as a label and as an anchor."""
    promised = """unreadable missing malformed trailing_data unexpected_chain expired not_yet_valid nearing_expiry
        outlives_ca no_path ca_not_self_signed ca_not_ca ca_cannot_sign wrong_subject wrong_usage missing_name
        key_missing key_mismatch too_open wrong_owner embedded_ca_differs not_rotating_pem not_a_symlink weak_key
        weak_signature served_differs restart_pending service_account_key_mismatch nonpositive_serial"""
    assert set(promised.split()) <= {reason.value for reason in Reason}
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", reason) for reason in Reason)
    assert all(reason.name.lower() == reason.value for reason in Reason)


@given(st.text())
def test_text_is_escaped_for_one_line_of_a_terminal(text: str) -> None:
    """Printable characters stay, in any script. Others are escaped."""
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert (printable(text) == text) == text.isprintable()
    assert printable("/pki/größe\t\x1b[0m\ud800") == r"/pki/größe\t\x1b[0m\ud800"


def test_findings_and_faults_are_values() -> None:
    """Two with the same content are equal and have the same hash."""
    one = Finding(Reason.EXPIRED, Severity.CRITICAL, "text")
    assert {one, Finding(Reason.EXPIRED, Severity.CRITICAL, "text")} == {one}
    assert Fault(Reason.MISSING, "x") == Fault(Reason.MISSING, "x", None) != Fault(Reason.MISSING, "x", "look")


def test_every_reason_is_classified() -> None:
    """Each reason has a usual severity, a remedy and a block, each of the right type."""
    assert all(isinstance(reason.severity, Severity) for reason in Reason)
    assert all(isinstance(reason.remedy, Remedy) for reason in Reason)
    assert all(isinstance(reason.blocks, Blocks) for reason in Reason)


DEFINITION = '"on_fire"', "Severity.CRITICAL", "Remedy.OPERATOR", "Blocks.ISSUING"


def imported(parts: Sequence[str]) -> dict[str, Any]:
    """The names of certmond.pki.findings with one reason more, which has `parts` as its definition."""
    before, mark, after = Path(findings.__file__).read_text("utf-8").partition("    UNREADABLE = ")
    namespace: dict[str, Any] = {"__name__": findings.__name__}
    exec(f"{before}    ON_FIRE = ({', '.join(parts)},)\n{mark}{after}", namespace)  # noqa: S102 - it is the module
    return namespace


def test_a_classified_reason_imports() -> None:
    """A reason with each part of its classification becomes a member with these parts."""
    reason = imported(DEFINITION)["Reason"]("on_fire")
    assert (reason.severity.value, reason.remedy.name, reason.blocks.name) == ("critical", "OPERATOR", "ISSUING")
    assert (reason.cleared_by_renewal, reason.blocks_issuing) == (False, True)


@pytest.mark.parametrize("lacking", DEFINITION)
def test_a_reason_without_a_part_of_its_classification_does_not_import(lacking: str) -> None:
    """Without its name, severity, remedy or block, a reason makes the import of the module fail."""
    with pytest.raises((TypeError, RuntimeError)):  # Python 3.11 raises the second, from the first
        imported([part for part in DEFINITION if part != lacking])


@pytest.mark.parametrize(
    ("what", "names"),
    [
        (Blocks.USE, "unreadable malformed unexpected_chain wrong_usage key_missing service_account_key_mismatch"),
        (Blocks.START, "unreadable missing malformed key_missing key_mismatch"),
        (Blocks.NEW_CA, "weak_key key_unusable nonconforming"),
    ],
)
def test_the_block_of_each_reason_is_fixed(what: Blocks, names: str) -> None:
    """These reasons, and no others, prevent the use of a certificate, the restart of a service, or the acceptance of a
    CA.
    """
    assert {reason.value for reason in Reason if what in reason.blocks} == set(names.split())


def test_init_issues_beside_certificates_that_are_due() -> None:
    """Only reasons about the end, copies, stopped services, other programs, objects of the cluster, the configuration
    and files that the user is not permitted to read let `certmond init` issue others.
    """
    assert {reason.value for reason in Reason if not reason.blocks_issuing} == {
        "configuration_refused",
        "not_permitted",
        "nearing_expiry",
        "still_due",
        "outlives_ca",
        "not_running",
        "second_renewer",
        "copy_differs",
        "stale_copy",
        "cluster_expiry",
        "cluster_malformed",
        "cluster_unread",
        "request_waiting",
    }


def test_the_reasons_of_damage_are_four() -> None:
    """A missing or malformed file, and a missing or mismatched key, are repaired."""
    damage = {reason.value for reason in Reason if reason.remedy is Remedy.REPAIR}
    assert damage == {"missing", "malformed", "key_missing", "key_mismatch"}
