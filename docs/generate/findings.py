"""The reference of findings: every reason with its usual severity, what clears it, and what it blocks."""

from __future__ import annotations

from certmond.pki.findings import Blocks, Reason, Remedy

_CLEARED_BY = {
    Remedy.OPERATOR: "",
    Remedy.RENEWAL: "renewal",
    Remedy.REPAIR: "repair or renewal",
}
_BLOCKED = {
    Blocks.ISSUING: "issuing by `init`",
    Blocks.USE: "use of the certificate",
    Blocks.START: "restarts of its services",
}

_HEAD = """# Findings reference

Every reason of a finding, generated from the code. Each reason has a section in the [runbook](../runbook.md),
which `certmond explain` prints.

- *Severity* is the usual one. The section in the runbook says when a finding is more or less severe.
- *Cleared by* says whether `certmond renew` clears the finding of a certificate that a CA signed, or also the repair
  of a damaged file. Where it is empty, neither does.
- *Blocks if critical* lists what certmond does not do while the finding is there and critical: issue certificates by
  `certmond init`, restart a service to use the certificate, restart a service that reads the file. A finding that is
  never critical blocks none of these.
- *Blocks a new Root CA* says whether certmond refuses a new Root CA with the finding also if it is a warning. It
  refuses one with a critical finding in any case, except `no_path`.

| reason | severity | cleared by | blocks if critical | blocks a new Root CA |
|---|---|---|---|---|
"""


def reference() -> str:
    """Return docs/reference/findings.md."""
    return _HEAD + "".join(map(_row, Reason))


def _row(reason: Reason) -> str:
    blocked = ", ".join(text for effect, text in _BLOCKED.items() if effect in reason.blocks)
    new_ca = "yes" if Blocks.NEW_CA in reason.blocks else ""
    cells = (f"[`{reason}`](../runbook.md#{reason})", reason.severity, _CLEARED_BY[reason.remedy], blocked, new_ca)
    return f"| {' | '.join(cells)} |\n"
