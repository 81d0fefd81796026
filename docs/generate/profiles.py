"""Write docs/profiles.md: tables of the entries and services of each shipped profile.

Owns the description of each distribution. The tables come from the profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from certmond.config.model import parse
from certmond.pki.catalog.entries import CertificateSpec, Kind, ServiceSpec

_HEAD = """# Profiles

*Reference: the certificates and services of each profile, and the differences between distributions.*

    certmond discover     # the distribution of this node, and a configuration for it

A **profile** lists the certificates of a node of one distribution, in the format of the configuration: each file, its
requirements, its consumers, and how they take up a new certificate. The default profile is `kubeadm`.

`certmond check --profile k3s` checks once with another profile. Set it permanently in `/etc/certmond/config.yaml`:

```yaml
profile: k3s
```

Your entries change those of the profile, or add to them ([configuration](configuration.md#how-files-are-joined)).
Examples are another path, another port, or `renewed_by: null`, so that certmond renews a certificate that the
distribution would renew. `profile: none` starts with an empty list.

The tables have these columns:

- **Renewed by**: *certmond* renews in enforce mode, with the key of the CA on this node or with the `signer` of the
  entry. In observe mode it only reports a due certificate. If the column names another program, certmond never renews
  the certificate. `check` and `plan` then name that program and the time.
- **Served at**: certmond connects to these endpoints in both modes, and compares the served certificate with the file.
  For static Pods of kubeadm, certmond reads the endpoints from their flags, so this column does not list them.
"""


@dataclass(frozen=True)
class About:
    """A distribution: its heading, its description, and the certificates that certmond does not watch."""

    title: str
    text: str
    unseen: str = ""


_ABOUT = {
    "kubeadm": About(
        "kubeadm",
        "For kubeadm v1.24 to v1.36, control plane or worker, stacked or external etcd. kubeadm renews at an upgrade, "
        "or on command: [migration from kubeadm](migration/kubeadm.md).",
    ),
    "starlingx": About(
        "StarlingX",
        "The profile of kubeadm with these differences: etcd runs under the Service Manager and has its files in "
        "`/etc/etcd`. The API server uses port 16443, as its manifest states. HAProxy uses a bundle that is made from "
        "`admin.conf`, and platform services read `admin.conf`. Files of kubeadm's own etcd do not exist on such a "
        "node. The daily `kube-cert-rotation.sh` renews the same certificates: "
        "[use only one of the two](migration/starlingx.md). certmond restarts services of the Service Manager with "
        "`sm-restart` after it has renewed their certificates. It does not restart them because of their age, which it "
        "cannot determine.",
        "the platform certificates (REST API and GUI, registry, OpenLDAP), which cert-manager creates and cert-mon "
        "installs. On a system controller `dccertmon` also reads `admin.conf`: add it beside `cert-mon`.",
    ),
    "k3s": About(
        "k3s",
        "For a server or agent, with embedded etcd or another datastore. At a start, k3s renews each leaf that is in "
        "its last 120 days (90 before May 2025). Nodes that restart k3s every quarter need nothing else. On other "
        "nodes, certmond reports the leaf 30 days before its end. Leaf and CA are in one file. `k3s certificate check` "
        "prints the dates. After `k3s certificate rotate`, k3s renews all leaves at the next start.",
        "the certificate on port 6443, which k3s stores in a Secret. On a server without an API server "
        "(`--disable-apiserver`), port 6444 forwards to another server: give `k3s` a `serves` without it. certmond "
        "reports intermediate CAs, because it supports Root CAs only. It also reports the effect of "
        "`--write-kubeconfig-mode 644`: all users can read the key of the administrator.",
    ),
    "rke2": About(
        "RKE2",
        "Like k3s, with the components as static Pods. `rke2-server` writes their files and manifests when it starts, "
        "so certmond restarts `rke2-server` to renew them. It inspects Pods with `/var/lib/rancher/rke2/bin/crictl`.",
        "the certificate on port 9345. The remarks on k3s also hold for RKE2.",
    ),
    "k0s": About(
        "k0s",
        "For a controller, a worker or both. At each start, k0s renews all leaves of a controller for one year. "
        "certmond warns of a controller that has run for too long without a restart. The kubelet of a worker renews "
        "its certificates.",
        "the certificates on the ports of konnectivity; `etcd/jwt.key`, which has no certificate.",
    ),
    "microk8s": About(
        "MicroK8s",
        "For a control plane or worker. `server.crt` and `front-proxy-client.crt` are valid for one year, and MicroK8s "
        "does not renew them. In enforce mode certmond renews them with the key of the CA on the node, and keeps their "
        "keys, like `microk8s refresh-certs`. All other certificates are valid for ten years. MicroK8s lets the group "
        "`microk8s` read and write all keys. To have certmond renew `server` and `front-proxy-client`, set "
        "`owner: root:microk8s` for these two, `ca` and `front-proxy-ca` in your entries.",
        "the pairs from which the kubeconfigs in `credentials/` were made, which no component reads; "
        "`serviceaccount.key`, which has no certificate.",
    ),
    "etcd": About(
        "etcd without Kubernetes",
        "For a member that systemd runs, with the files of etcdadm. For other files, override `path` and `key`. If the "
        "command line of etcd has flags, certmond uses the files in these flags. The clients of etcdctl and of the API "
        "server have the group `system:masters`. To have certmond renew them, name their `subject` in your entries.",
    ),
}


def reference() -> str:
    """Return docs/profiles.md."""
    return "\n".join([_HEAD, *(line for name, about in _ABOUT.items() for line in _section(name, about))])


def _section(name: str, about: About) -> Iterator[str]:
    config = parse((), profile=name)
    yield f"## {about.title}\n\n`profile: {name}`. {about.text}\n"
    yield _table(
        ("entry", "file", "CA", "renewed by", "read by"),
        (_entry(spec, config.services) for spec in config.certificates),
    )
    yield _table(("service", "restarted by", "reloads", "served at"), map(_service, config.services))
    if about.unseen:
        yield f"certmond does not watch {about.unseen}\n"


def _entry(spec: CertificateSpec, services: Iterable[ServiceSpec]) -> tuple[str, ...]:
    default = "the kubelet; certmond if the kubelet has failed" if spec.kind is Kind.KUBELET else "certmond"
    by = spec.renewed_by or ("certmond, by a rotation" if spec.is_trust else default)
    known = {service.name for service in services}
    readers = [name for name in spec.consumers if name in known]
    ca = "itself" if spec.authority else ", ".join(spec.ca) if spec.ca else ""
    return f"`{spec.name}`", f"`{spec.path}`", ca, by, ", ".join(readers) or "operators"


def _service(service: ServiceSpec) -> tuple[str, ...]:
    how = {
        "systemd": f"the unit `{service.unit}`",
        "static-pod": f"the container `{service.pod}` of a static Pod",
        "command": f"`{' '.join(service.command)}`",
    }[service.kind]
    served = (f"{name}: {', '.join(endpoints)}" for name, endpoints in service.serves.items())
    return f"`{service.name}`", how, ", ".join(service.reloads), "; ".join(served)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in lines) + "\n"
