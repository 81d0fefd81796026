"""URIs as Go's net/url parses them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.pki.go.uri import host_in, is_domain, require_uri


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("https://a.example.com:6443/x", "a.example.com:6443"),
        ("spiffe://cluster/ns", "cluster"),
        ("urn:uuid:1", ""),
        ("*", ""),
        ("", ""),
        ("a/b:c", ""),
        ("//host", "host"),
        ("///p", ""),
        ("http:///p", ""),
        ("http://u:p@h:1/", "h:1"),
        ("http://h/p?%zz", "h"),
        ("http://:80/", ":80"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://[fe80::1%25en0]/", "[fe80::1%en0]"),
        ("http://h#f", "h"),
        ("http://a%25b/", "a%b"),
    ],
)
def test_a_uri_that_go_parses(uri: str, host: str) -> None:
    """The host is the one that name constraints compare."""
    require_uri(uri)
    assert host_in(uri) == host


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("://x", "missing protocol scheme"),
        ("1:2", "cannot contain colon"),
        ("http://a b/", "invalid character"),
        ("http://[::1", "missing ']'"),
        ("http://[::1]x/", "invalid port"),
        ("http://a:x/", "invalid port"),
        ("http://a%41/", "escape"),
        ("http://a%zz/", "escape"),
        ("http://h/%z", "escape"),
        ("http://h#%z", "escape"),
        ("http://a\x7f/", "control character"),
        ("http://u[@h/", "invalid userinfo"),
        ("http://a..b/", "invalid domain"),
        ("http://a./", "invalid domain"),
        ("http://[::1%25%41%2f]/", "escape"),
        ("http://[::1%25 ]/", "invalid character"),
        ("http://a%c3%a9/", "invalid domain"),
        ("http://[::1%25%20]/", "invalid domain"),
    ],
)
def test_a_uri_that_go_refuses(uri: str, words: str) -> None:
    """Go then does not parse the certificate."""
    with pytest.raises(MalformedError, match=words):
        require_uri(uri)


def test_a_domain_has_no_empty_label() -> None:
    """The only exception is the empty domain, which has no label."""
    assert [is_domain(name) for name in ("", "a.b", "a..b", "a.", ".a", "a b", "é")] == [True, True, *[False] * 5]


@given(
    st.text(st.characters(max_codepoint=127)) | st.text("/:[]@%?#a.2580", max_size=12).map(lambda rest: f"a://{rest}")
)
def test_any_text_is_a_uri_or_malformed(uri: str) -> None:
    """No text raises another error."""
    try:
        require_uri(uri)
    except MalformedError:
        return
    assert is_domain(host_in(uri))
