"""Insertion and replacement of values in the text of a kubeconfig, without another change to the text."""

from __future__ import annotations

import base64
import json

import pytest
import yaml

from certmond.errors import WriteError
from certmond.formats.kubeconfig_edit import credentials_obstacle, with_cluster
from tests.builders import make_ca

PATH, SERVER = "/etc/kubernetes/admin.conf", "https://10.0.0.1:6443"
CA = make_ca()
B64 = base64.b64encode(CA.pem).decode()
REST = """contexts: [{name: c, context: {cluster: prod, user: admin}}]
current-context: c  # a comment
users: []
"""


def text(cluster: str) -> str:
    return f"clusters:\n- name: prod\n{cluster}{REST}"


def repaired(content: str, trust: bool = True, server: str | None = SERVER) -> str:
    return with_cluster(content.encode(), PATH, (CA.facts,) if trust else (), server).decode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"  cluster:\n    server: {SERVER} # a comment\n",
         f"  cluster:\n    certificate-authority-data: {B64}\n    server: {SERVER} # a comment\n"),
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
def test_a_missing_value_is_inserted_without_another_change(before: str, after: str) -> None:
    """The value is in a separate line with the same indentation, between braces, or replaces an empty value."""
    assert repaired(text(before)) == text(after)
    assert repaired(text(after)) == text(after)


def test_both_values_are_inserted_into_an_empty_mapping() -> None:
    """The file is JSON or YAML."""
    document = {"clusters": [{"name": "prod", "cluster": {}}], **yaml.safe_load(REST)}
    document["clusters"][0]["cluster"] = {}
    wanted = {"certificate-authority-data": B64, "server": SERVER}
    assert yaml.safe_load(repaired(json.dumps(document)))["clusters"][0]["cluster"] == wanted
    assert yaml.safe_load(repaired(text("  cluster: {}\n")))["clusters"][0]["cluster"] == wanted


@pytest.mark.parametrize(
    "cluster",
    [
        "  cluster: &a\n    extensions: []\n- name: other\n  cluster: *a\n",
        f"  x: &a {{server: '{SERVER}'}}\n  cluster:\n    <<: *a\n",
        f"  cluster:\n    certificate-authority-data: []\n    server: {SERVER}\n",
    ],
    ids=["shared", "merged", "a list"],
)
def test_a_value_that_needs_another_change_is_refused(cluster: str) -> None:
    """Another cluster has the same mapping through an anchor, a merge key adds the value, or the value is a list."""
    with pytest.raises(WriteError, match="without another change to the file"):
        repaired(text(cluster))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (REST, "certmond adds no cluster to /etc/kubernetes/admin.conf; add the cluster to the file"),
        (text("  cluster: {}\n").replace("cluster: prod", "cluster: gone"), "certmond adds no cluster to"),
    ],
    ids=["no clusters", "another cluster"],
)
def test_no_cluster_is_added(content: str, said: str) -> None:
    """The file does not have the cluster of the current context."""
    with pytest.raises(WriteError, match=said):
        repaired(content)


def test_an_unknown_value_is_not_written() -> None:
    """No file on the node has the server, or the file of the CA has no certificate."""
    fact = "no file on this node contains the address of the API server for cluster 'prod'"
    with pytest.raises(WriteError, match=f"{fact}; write the URL of the API server into"):
        repaired(text("  cluster: {}\n"), server=None)
    with pytest.raises(WriteError, match="contains no certificate; restore the CA first"):
        repaired(text("  cluster: {}\n"), trust=False)


def test_a_kubeconfig_without_its_current_user_gets_no_credentials() -> None:
    """The reason is the missing user of the current context, or the invalid YAML."""
    assert credentials_obstacle(REST.encode(), PATH) == f"{PATH} contains no user 'admin' for its current context"
    assert credentials_obstacle(b"x", PATH) == f"{PATH} is not a YAML mapping"
    user = "users:\n- name: admin\n  user: {client-certificate-data: AAAA, client-key-data: AAAA}\n"
    assert credentials_obstacle(REST.replace("users: []\n", user).encode(), PATH) is None
