"""The output of `root-ca show` for the CAs that a distribution keeps in its datastore."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from certmond.pki.findings import printable
from certmond.pki.x509.certificate import Certificate
from certmond.rotation.distribution_ca_files import DistributionCAFiles

if TYPE_CHECKING:
    from certmond.cli.options import Globals
    from certmond.config.model import Config

SCHEMA = 1


def distribution_document(options: Globals, config: Config) -> dict[str, Any]:
    """Return the CAs of this node, the staged CAs and the next step. Raises WriteError if a file is unreadable."""
    files = DistributionCAFiles(config, options.root, options.state_dir)
    staged = {each.name: each.new for each in files.staged()}
    paths = {each.name: each.path for each in config.certificates}
    cas = [
        {
            "name": name, "path": paths[name], "present": [*_entries(found)],
            "staged": [*_entries(staged[name])] if name in staged else None,
        }
        for name, found in files.authorities().items()
    ]  # fmt: skip
    return {"schema": SCHEMA, "cas": cas, "next": files.next_step(datetime.now(UTC))}


def distribution_table(document: dict[str, Any], _wide: bool) -> Table:
    """Return a row for each certificate, and the next step as a caption."""
    table = Table("ca", "state", "subject", "until", "sha256", box=None, pad_edge=False, show_edge=False)
    table.caption, table.caption_justify = document["next"], "left"
    for ca in document["cas"]:
        for state in ("present", "staged"):
            for each in ca[state] or ():
                table.add_row(ca["name"], state, each["subject"], each["not_after"][:10], each["sha256"])
    return table


def _entries(certificates: Iterable[Certificate]) -> Iterable[dict[str, str]]:
    for each in certificates:
        yield {
            "subject": printable(each.subject), "not_after": each.not_after.isoformat(), "sha256": each.sha256,
        }  # fmt: skip
