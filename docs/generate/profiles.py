"""The shipped profiles as tables: each entry with its file, its CA, who renews it and who reads it; each service with
what restarts it and where it is asked.

Owns what is said of a distribution besides; the tables are the profiles' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from certmond.config.model import parse
from certmond.pki.catalog.entries import CertificateSpec, Kind, ServiceSpec

_HEAD = """# Profiles

Which certificates a node should have depends on who made it. A **profile** says so in the schema of the
configuration: each file, what must be in it, who reads it, and what it takes for a new one to be used. Without a
word of yours it is `kubeadm`.

    certmond discover     # which distribution this node is of, and the configuration that fits

`certmond check --profile k3s` looks once with another one. In `/etc/certmond/config.yaml`, for good:

```yaml
profile: k3s
```

Your own entries change those of the profile or join them ([configuration](configuration.md#how-files-are-joined)):
another path, a port that you have moved, `renewed_by: null` where certmond is to renew what the distribution does by
itself. `profile: none` begins with an empty list.

**Renewed by**: where it says *certmond*, that is so in enforce mode, with the CA's key on this node or the `signer`
that you name; in observe mode it is told when it is due, and nothing more. Where it names somebody else, certmond
never renews it: `check` and `plan` say who does, and when. **Served at**: in both modes certmond looks there whether
what is served is what the file has. Components that run as static pods of kubeadm are asked where their own flags
say, and are not listed for that.
"""


@dataclass(frozen=True)
class About:
    """A distribution: its heading, what has to be known of it, and what certmond does not see."""

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
        "kubeadm's profile, with what differs (its own etcd's entries are of files that are not there): etcd under "
        "the Service Manager in `/etc/etcd`, the API server on port 16443 (its manifest says so), HAProxy's bundle "
        "made of `admin.conf`, and the services that read that. The daily `kube-cert-rotation.sh` renews the same "
        "certificates: [one of the two should](migration/starlingx.md). What runs under the Service Manager is "
        "restarted by `sm-restart` after certmond has renewed what it reads, and not because of its age, which "
        "cannot be seen.",
        "the platform's own certificates (REST API and GUI, registry, OpenLDAP), which cert-manager makes and "
        "cert-mon installs; `dccertmon` on a system controller, which reads `admin.conf` as well: list it beside "
        "`cert-mon`.",
    ),
    "k3s": About(
        "k3s",
        "Server or agent, embedded etcd or another datastore. k3s makes a leaf anew when it starts in the last 120 "
        "days of that (90 before May 2025): whoever restarts it once a quarter has nothing to do. Whoever does not "
        "is told by certmond 30 days before the end. Leaf and CA are in one file. `k3s certificate check` prints "
        "the dates, `k3s certificate rotate` has all leaves made anew at the next start.",
        "what is served on port 6443, which k3s keeps in a Secret. On a server without an API server "
        "(`--disable-apiserver`) port 6444 leads to another one: give `k3s` a `serves` without it. CAs that are "
        "intermediates are reported: certmond knows Root CAs only. `--write-kubeconfig-mode 644` makes the "
        "administrator's key readable for all, which is told.",
    ),
    "rke2": About(
        "RKE2",
        "As k3s, with the components as static pods: `rke2-server` writes their files and manifests when it starts,"
        " and is what has them made anew. A pod is looked at with `/var/lib/rancher/rke2/bin/crictl`.",
        "what is served on port 9345; else as for k3s.",
    ),
    "k0s": About(
        "k0s",
        "Controller, worker or both. k0s makes all leaves of a controller anew at each start, for a year: a "
        "controller that runs for longer without a restart is what certmond warns of. The kubelet of a worker "
        "renews its own.",
        "konnectivity's ports; `etcd/jwt.key`, which has no certificate.",
    ),
    "microk8s": About(
        "MicroK8s",
        "Control plane or worker. `server.crt` and `front-proxy-client.crt` are good for a year, and nobody renews "
        "them by himself: in enforce mode certmond does, with the CA's key on the node, and keeps their keys, as "
        "`microk8s refresh-certs` does. All others last ten years. The group `microk8s` may read all keys, as "
        "MicroK8s has it. It may also write them: for certmond to renew `server` and `front-proxy-client`, give "
        "these two, `ca` and `front-proxy-ca` the `owner: root:microk8s` in entries of your own.",
        "the pairs that the kubeconfigs in `credentials/` were made from, which nobody else reads; "
        "`serviceaccount.key`, which has no certificate.",
    ),
    "etcd": About(
        "etcd by itself",
        "A member that systemd runs, with the files that etcdadm makes; for others, override `path` and `key`. "
        "Where etcd's command line has flags, those say what it reads. The clients of etcdctl and of the API server "
        "have the group `system:masters`: for certmond to renew them, name their `subject` in entries of your own.",
    ),
}


def reference() -> str:
    """docs/profiles.md."""
    return "\n".join([_HEAD, *(line for name, about in _ABOUT.items() for line in _section(name, about))])


def _section(name: str, about: About) -> Iterator[str]:
    config = parse((), profile=name)
    yield f"## {about.title}\n\n`profile: {name}`. {about.text}\n"
    yield _table(
        ("entry", "file", "CA", "renewed by", "read by"),
        (_entry(spec, config.services) for spec in config.certificates),
    )
    yield _table(("service", "restarted by", "reads again by itself", "served at"), map(_service, config.services))
    if about.unseen:
        yield f"Not seen: {about.unseen}\n"


def _entry(spec: CertificateSpec, services: Iterable[ServiceSpec]) -> tuple[str, ...]:
    ours = "the kubelet; certmond where that has failed" if spec.kind is Kind.KUBELET else "certmond"
    by = spec.renewed_by or ("certmond, by a rotation" if spec.is_trust else ours)
    known = {service.name for service in services}
    readers = [name for name in spec.consumers if name in known]
    ca = "itself" if spec.authority else ", ".join(spec.ca) if spec.ca else ""
    return f"`{spec.name}`", f"`{spec.path}`", ca, by, ", ".join(readers) or "people"


def _service(service: ServiceSpec) -> tuple[str, ...]:
    how = {
        "systemd": f"the unit `{service.unit}`",
        "static-pod": f"the container `{service.pod}` of a static pod",
        "command": f"`{' '.join(service.command)}`",
    }[service.kind]
    served = (f"{name}: {', '.join(endpoints)}" for name, endpoints in service.serves.items())
    return f"`{service.name}`", how, ", ".join(service.reloads), "; ".join(served)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in lines) + "\n"
