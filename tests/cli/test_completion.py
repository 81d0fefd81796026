"""Completion: each shell completes certmond's verbs, options and names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from certmond.cli.main import cli
from tests.conftest import real_part

BIN = Path(sys.executable).parent


def asked(shell: str, words: str) -> list[str]:
    """Return the completions of `shell` after `words`, with certmond's script loaded."""
    number = len(words.split(" ")) - 1
    with_bash = f"""
        source <(certmond completion bash)
        COMP_WORDS=({words} '') COMP_CWORD={number}; _certmond_completion certmond
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    with_zsh = f"""
        compdef() {{ :; }}; compadd() {{ print -l -- $completions; }}
        _describe() {{ print -l -- $completions_with_descriptions; }}  # both are local to the caller
        source <(certmond completion zsh)
        words=({words}) CURRENT={number + 1}; _certmond_completion
    """
    with_fish = f"certmond completion fish | source; complete --do-complete '{words}'"
    script = {"bash": with_bash, "zsh": with_zsh, "fish": with_fish}[shell]
    bare = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [real_part(shell), *bare, "-c", script],
        capture_output=True, text=True, check=True, env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert not done.stderr
    return [line.partition("\t")[0].partition(":")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.long
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.real("bash, zsh, fish")
def test_a_shell_completes_verbs_and_names(shell: str) -> None:
    """bash, zsh and fish complete the verb, and behind `renew` the names of certificates."""
    assert asked(shell, "certmond ren") == ["renew"]
    assert asked(shell, "certmond renew apiserver-k") == ["apiserver-kubelet-client"]


def offered(words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    done = CliRunner().invoke(cli, [], prog_name="certmond", env={"_CERTMOND_COMPLETE": "bash_complete"})
    return [line.split(",")[1] for line in done.stdout.splitlines()]


def test_names_are_completed_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Certificates, services, profiles, reasons, alerts and families; of the configuration that is named, whatever the
    case.
    """
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("profile: none\ncertificates: [{name: nginx, path: /n.pem}]\n")
    assert offered("certmond renew --config c.yaml n", monkeypatch) == ["nginx"]
    assert offered("certmond archive restore front-proxy-cl", monkeypatch) == ["front-proxy-client"]
    assert offered("certmond restart kube-s", monkeypatch) == ["kube-scheduler"]
    assert offered("certmond explain key_m", monkeypatch) == ["key_missing", "key_mismatch"]
    assert offered("certmond explain certmondstal", monkeypatch) == ["CertmondStale"]
    names = ["k0s", "k3s", "k8s-snap", "kops", "kubeadm", "kubespray"]
    assert offered("certmond check --profile k", monkeypatch) == names
    assert offered("certmond --profile n", monkeypatch) == ["none"]
    assert offered("certmond root-ca show --family f", monkeypatch) == ["front-proxy-ca"]


def test_only_names_of_one_word_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell inserts a name without quotes, so a name with a space, a newline or a command is not offered."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text('certificates: [{name: x.1}, {name: x y}, {name: "x\\ny"}, {name: x$(reboot)}]\n')
    assert offered("certmond renew --config c.yaml x", monkeypatch) == ["x.1"]


def test_a_broken_configuration_still_completes_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If the configuration is unreadable, the profile's names are offered, without a message."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("nonsense: [")
    assert offered("certmond renew --config c.yaml scheduler", monkeypatch) == ["scheduler.conf"]


@pytest.mark.parametrize(
    "words", ["certmond re", "certmond renew api", "certmond restart ku", "certmond explain k", "certmond root-ca r"]
)
def test_completion_loads_no_model(words: str) -> None:
    """Names are completed without pydantic and cryptography, which take longer to load than a user wants to wait."""
    typed = {"_CERTMOND_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", BIN / "certmond"],
        check=True, capture_output=True, text=True, env={**os.environ, **typed},
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.startswith("plain,")
    assert "click" in loaded
    assert not loaded & {"pydantic", "cryptography", "rich"}
