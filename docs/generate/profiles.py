"""The shipped profiles as tables: each entry with its file, CA, renewer and readers, and each service with its restart
and its endpoints.

Owns the text about a distribution. The tables are from the profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from certmond.config.model import parse
from certmond.pki.catalog.entries import CertificateSpec, Kind, ServiceSpec

_HEAD = """# Profiles

The certificates of a node depend on its distribution. A **profile** describes them in the schema of the
configuration: each file, its requirements, its readers, and how they start to use a new one. The default is
`kubeadm`.

    certmond discover     # the distribution of this node, and the configuration that fits

`certmond check --profile k3s` uses another profile once. To set it, write in `/etc/certmond/config.yaml`:

```yaml
profile: k3s
```

Your entries change those of the profile, or add to them ([configuration](configuration.md#how-files-are-joined)):
another path, another port, or `renewed_by: null` to let certmond renew a certificate that the distribution renews.
`profile: none` starts with an empty list.

**Renewed by**: *certmond* renews the certificate in enforce mode, with the CA key on this node or the `signer` that
you name. In observe mode, certmond only reports that it is due. certmond never renews a certificate with another
renewer: `check` and `plan` print the renewer and the time. **Served at**: in both modes, certmond compares the
certificate at this endpoint with the file. For static Pods of kubeadm, certmond reads the endpoints from their flags,
so the tables do not list them.
"""


@dataclass(frozen=True)
class About:
    """A distribution: its heading, a description, and the certificates that certmond does not check."""

    title: str
    text: str
    unseen: str = ""


_ABOUT = {
    "kubeadm": About(
        "kubeadm",
        "kubeadm v1.24 to v1.36, control plane or worker, stacked or external etcd. kubeadm renews at an upgrade, "
        "or by hand: [coming from it](migration/kubeadm.md).",
    ),
    "starlingx": About(
        "StarlingX",
        "The profile of kubeadm with differences: etcd under the Service Manager in `/etc/etcd`, the API server on "
        "port 16443, the bundle of HAProxy that is derived from `admin.conf`, and the services that read it. The "
        "entries for the etcd of kubeadm match no file. The daily `kube-cert-rotation.sh` renews the same "
        "certificates: [enable only one of the two](migration/starlingx.md). certmond restarts services of "
        "the Service Manager with `sm-restart` after it has renewed their files. It cannot detect their age.",
        "the certificates of the platform (REST API and GUI, registry, OpenLDAP), which cert-manager creates and "
        "cert-mon installs; `dccertmon` on a system controller, which also reads `admin.conf`: list it beside "
        "`cert-mon`.",
    ),
    "k3s": About(
        "k3s",
        "Server or agent, embedded etcd or another datastore. At its start, k3s renews a leaf in its last 120 days "
        "(90 before May 2025). A restart once a quarter is enough. Otherwise certmond reports the certificate 30 days "
        "before its end. Leaf and CA are in one file. `k3s certificate check` prints the dates. After "
        "`k3s certificate rotate`, the next start renews all leaves.",
        "the certificate on port 6443, which k3s stores in a Secret. On a server without an API server "
        "(`--disable-apiserver`), port 6444 is a proxy to another server: set `serves` of `k3s` without it. certmond "
        "supports only Root CAs and reports intermediate CAs. With `--write-kubeconfig-mode 644`, every user can read "
        "the administrator's key, which certmond reports.",
    ),
    "rke2": About(
        "RKE2",
        "As k3s, with the components as static Pods: `rke2-server` writes and renews their files and manifests when it "
        "starts. certmond inspects a Pod with `/var/lib/rancher/rke2/bin/crictl`.",
        "the certificate on port 9345; the others as for k3s.",
    ),
    "k0s": About(
        "k0s",
        "Controller, worker or both. k0s renews all leaves of a controller at each start, for one year. certmond warns "
        "about a controller that runs longer without a restart. The kubelet of a worker renews its own certificates.",
        "the ports of konnectivity; `etcd/jwt.key`, which has no certificate.",
    ),
    "microk8s": About(
        "MicroK8s",
        "Control plane or worker. `server.crt` and `front-proxy-client.crt` are valid for one year, and MicroK8s does "
        "not renew them automatically. In enforce mode, certmond renews them with the CA key on the node, and keeps "
        "their keys, as `microk8s refresh-certs` does. All others are valid for ten years. The group "
        "`microk8s` can read and write all keys. To let certmond renew `server` and `front-proxy-client`, set "
        "`owner: root:microk8s` for these two, `ca` and `front-proxy-ca` in your configuration.",
        "the pairs from which MicroK8s created the kubeconfigs in `credentials/`, and which no component reads; "
        "`serviceaccount.key`, which has no certificate.",
    ),
    "etcd": About(
        "External etcd",
        "A member that systemd runs, with the files of etcdadm. For other files, override `path` and `key`. The flags "
        "of etcd take precedence. The clients of etcdctl and of the API server are in the group "
        "`system:masters`: to let certmond renew them, set their `subject` in your configuration.",
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
        yield f"Not checked: {about.unseen}\n"


def _entry(spec: CertificateSpec, services: Iterable[ServiceSpec]) -> tuple[str, ...]:
    default = "the kubelet; certmond if the kubelet has failed" if spec.kind is Kind.KUBELET else "certmond"
    by = spec.renewed_by or ("certmond, by a rotation" if spec.is_trust else default)
    known = {service.name for service in services}
    readers = [name for name in spec.consumers if name in known]
    ca = "itself" if spec.authority else ", ".join(spec.ca) if spec.ca else ""
    return f"`{spec.name}`", f"`{spec.path}`", ca, by, ", ".join(readers) or "people"


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
