"""The number of files that a search for repair sources reads."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from certmond.config.renewal_policy import policy_of
from certmond.files.catalog_observer import Store
from certmond.renewal import archive_generation_check, repair_sources
from certmond.renewal.archived_pair_check import as_put_back
from certmond.renewal.repair_sources import SalvageLookup
from certmond.state.archive import Archive
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import DAY, NOW, YEAR, make_leaf
from tests.test_renewal import ENTRIES, Host, kubeconfig

SECOND = timedelta(seconds=1)


def lookup_of(host: Host) -> SalvageLookup:
    return SalvageLookup(host.config, str(host.root), host.state, policy_of(host.config))


def reads_of_damaged(host: Host, monkeypatch: pytest.MonkeyPatch, lookup: SalvageLookup | None = None) -> list[str]:
    """Search for the repair sources of the damaged entries. Return the path of each read and of each archived pair."""
    paths, read = list[str](), NodeFiles.read

    def counted(files: NodeFiles, path: str, *, follow_any_link: bool = True) -> bytes | None:
        paths.append(path)
        return read(files, path, follow_any_link=follow_any_link)

    def pair(*arguments: object) -> object:
        paths.append("archive")
        return as_put_back(*arguments)  # type: ignore[arg-type]

    seen = Store(host.config.certificates, str(host.root)).observe()
    with monkeypatch.context() as patch:
        patch.setattr(NodeFiles, "read", counted)
        for module in (archive_generation_check, repair_sources):
            patch.setattr(module, "as_put_back", pair)
        found = (lookup or lookup_of(host)).of_damaged(seen, NOW)
    assert found
    return paths


def test_each_generation_is_read_a_constant_number_of_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although each generation is compared with all others."""
    host, entry = Host(tmp_path / "host", "apiserver"), ENTRIES["apiserver"]
    archive, counts = Archive(host.state, keep=100), list[int]()
    for number in range(8):
        leaf = make_leaf(host.ca, "kube-apiserver", not_before=NOW - DAY, not_after=NOW + YEAR, names=["DNS:a"])
        for path, content in ((entry["path"], leaf.pem), (entry["key"], leaf.key_pem)):
            host.put(path, content, 0o600)
        files = {path: host.at(path) for path in (entry["key"], entry["path"])}
        archive.store("apiserver", files, NOW - DAY + number * SECOND, {})
        host.put(entry["path"], b"broken")
        if number in {1, 3, 7}:
            counts.append(reads_of_damaged(host, monkeypatch).count("archive"))
    assert counts[1] - counts[0] == (counts[2] - counts[1]) / 2


def test_each_kubeconfig_is_read_once_for_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many kubeconfigs are damaged."""
    host = Host(tmp_path / "host", "admin.conf")
    for number in range(6):
        path = f"/etc/kubernetes/{number}.conf"
        host.entries[f"{number}.conf"] = {**ENTRIES["admin.conf"], "path": path}
        host.put(path, kubeconfig(host.ca, make_leaf(host.ca)) if number % 2 else b"broken", 0o600)
    lookup = lookup_of(host)
    paths = reads_of_damaged(host, monkeypatch, lookup)
    assert reads_of_damaged(host, monkeypatch, lookup) == paths  # another search reads the files again
    intact = ["/etc/kubernetes/admin.conf", *(f"/etc/kubernetes/{number}.conf" for number in (1, 3, 5))]
    assert max(map(paths.count, intact)) == 1
