"""Values put into the text of a kubeconfig where they are missing: everything else in it stays."""

from __future__ import annotations

import base64
import json

import pytest
import yaml

from certmond.errors import WriteError
from certmond.host.kubeconfig_text import unfit, with_cluster
from tests.builders import make_ca

PATH, SERVER = "/etc/kubernetes/admin.conf", "https://10.0.0.1:6443"
CA = make_ca()
B64 = base64.b64encode(CA.pem).decode()
REST = """contexts: [{name: c, context: {cluster: prod, user: admin}}]
current-context: c  # by hand
users: []
"""


def text(cluster: str) -> str:
    return f"clusters:\n- name: prod\n{cluster}{REST}"


def mended(content: str, trust: bool = True, server: str | None = SERVER) -> str:
    return with_cluster(content.encode(), PATH, (CA.facts,) if trust else (), server).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"  cluster:\n    server: {SERVER} # ours\n",
         f"  cluster:\n    certificate-authority-data: {B64}\n    server: {SERVER} # ours\n"),
        (f"  cluster:\n      # the CA\n      certificate-authority-data: {B64}\n",
         f"  cluster:\n      # the CA\n      server: {SERVER}\n      certificate-authority-data: {B64}\n"),
        (f"  cluster: {{server: '{SERVER}'}}\n",
         f"  cluster: {{\"certificate-authority-data\": \"{B64}\", server: '{SERVER}'}}\n"),
        ("  cluster:\n    certificate-authority-data:\n    server: \"\"\n",
         f"  cluster:\n    certificate-authority-data: {B64}\n    server: \"{SERVER}\"\n"),
        (f"  cluster:\n    certificate-authority-data: ~\n    server: {SERVER}\n",
         f"  cluster:\n    certificate-authority-data: {B64}\n    server: {SERVER}\n"),
        (f"  cluster:\n    certificate-authority-data: |\n      AAAA\n    server: {SERVER}\n",
         f"  cluster:\n    certificate-authority-data: |\n      {B64}\n    server: {SERVER}\n"),
    ],
    ids=["a line", "below a comment", "between braces", "empty values", "null", "a block"],
)  # fmt: skip
def test_what_is_missing_is_put_in_and_all_else_stays(before: str, after: str) -> None:
    """In a line of its own as far indented, between braces, or where an empty value stands."""
    assert mended(text(before)) == text(after)
    assert mended(text(after)) == text(after)


def test_a_file_in_json_and_one_with_nothing_in_its_cluster_are_mended() -> None:
    """Both values of an empty mapping, as YAML has them."""
    document = {"clusters": [{"name": "prod", "cluster": {}}], **yaml.safe_load(REST)}
    document["clusters"][0]["cluster"] = {}
    wanted = {"certificate-authority-data": B64, "server": SERVER}
    assert yaml.safe_load(mended(json.dumps(document)))["clusters"][0]["cluster"] == wanted
    assert yaml.safe_load(mended(text("  cluster: {}\n")))["clusters"][0]["cluster"] == wanted


@pytest.mark.parametrize(
    "cluster",
    [
        "  cluster: &a\n    extensions: []\n- name: other\n  cluster: *a\n",
        f"  x: &a {{server: '{SERVER}'}}\n  cluster:\n    <<: *a\n",
        f"  cluster:\n    certificate-authority-data: []\n    server: {SERVER}\n",
    ],
    ids=["shared", "merged", "a list"],
)
def test_what_cannot_be_put_in_alone_is_refused(cluster: str) -> None:
    """Another cluster has the same mapping by an anchor, it comes from elsewhere, or the value is none."""
    with pytest.raises(WriteError, match="cannot be exchanged without changing more than that"):
        mended(text(cluster))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (REST, "certmond adds no cluster to /etc/kubernetes/admin.conf"),
        (text("  cluster: {}\n").replace("cluster: prod", "cluster: gone"), "certmond adds no cluster to"),
    ],
    ids=["none", "another"],
)
def test_no_cluster_is_added(content: str, said: str) -> None:
    """The context names none that is there."""
    with pytest.raises(WriteError, match=said):
        mended(content)


def test_what_is_not_known_is_not_written() -> None:
    """The server is on this node nowhere, or the file of the CA is empty."""
    with pytest.raises(WriteError, match="the API server of cluster 'prod' is, nothing here says; write its URL into"):
        mended(text("  cluster: {}\n"), server=None)
    with pytest.raises(WriteError, match="holds no certificate; put the CA back first"):
        mended(text("  cluster: {}\n"), trust=False)


def test_why_a_kubeconfig_has_no_place_for_credentials_is_told() -> None:
    """It has not the user of its context, or is none at all."""
    assert unfit(REST.encode(), PATH) == f"{PATH} has no user 'admin' for its current context"
    assert unfit(b"x", PATH) == f"{PATH} is not a YAML mapping"
    user = "users:\n- name: admin\n  user: {client-certificate-data: AAAA, client-key-data: AAAA}\n"
    assert unfit(REST.replace("users: []\n", user).encode(), PATH) is None
