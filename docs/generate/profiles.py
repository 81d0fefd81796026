"""Write docs/profiles.md: tables of the entries and services of each shipped profile.

Owns the description of each distribution. The tables come from the profiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from certmond.config.model import parse
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.service_entries import ServiceSpec

_HEAD = """# Profiles

*Reference: the certificates and services of each profile, and the differences between distributions.*

    certmond discover     # the distribution of this node, and a configuration for it

A **profile** lists the certificates of a node of one distribution, in the format of the configuration. For each
certificate, the profile has the file, the requirements, the services that use the certificate, and how these services
load a new certificate. The default profile is `kubeadm`.

`certmond check --profile k3s` checks a node once with the profile `k3s`. To set a profile permanently, add the key
`profile` to `/etc/certmond/config.yaml`:

```yaml
profile: k3s
```

The entries in your configuration change entries of the profile, or add entries
([configuration](configuration.md#how-files-are-joined)). For example, an entry may set another path or another port.
With `renewed_by: null` in an entry, certmond renews a certificate that the distribution would renew otherwise. If the
profile has `renewed_at_start` for this entry, also set `renewed_at_start: null`. With `profile: none`, certmond uses
only your entries.

The tables have these columns:

- **Renewed by**: the program or person that renews the certificate. *certmond* renews a certificate in enforce mode,
  with the key of the CA on this node or with the `signer` of the entry. In observe mode, certmond only reports that the
  certificate is due. If the column does not name certmond, certmond never renews the certificate. `certmond check` and
  `certmond plan` then name the other program and the time.
- **Served at**: the endpoints at which a service serves a certificate. In both modes, certmond connects to these
  endpoints and compares the served certificate with the file. *In no file* are endpoints whose certificate is in no
  certificate file ([References](references.md#certificates-in-no-file)). For static Pods of kubeadm, certmond reads the
  endpoints from the flags of the Pod, so this column does not list these endpoints.
"""


@dataclass(frozen=True)
class About:
    """A distribution: its heading, its description, and the certificates that certmond does not watch.

    `recovery` is the text of a section about certificates that expired while the node was off.
    """

    title: str
    text: str
    unseen: str = ""
    recovery: str = ""


_RECOVERY = """\
### k3s and RKE2: certificates that expired while the nodes were off

A start of k3s or RKE2 also issues expired leaves again. If all servers were off, the API does not answer until a
majority of the servers has started. Without the API, certmond holds a restart of a server with the restart lock
([`without_api`](cluster.md#without-the-api)), so use systemctl on each server. Keep this order:

1. Correct the clock of each node (`timedatectl`). A start with a wrong clock issues certificates with wrong dates.
2. Start the servers one after the other, without waiting for the first one: with embedded etcd, a server becomes ready
   only when a majority of the members has valid certificates.

        systemctl restart --no-block k3s    # RKE2: rke2-server

3. Wait until the API answers on each server, and look for certificates that a start has not renewed:

        kubectl get --raw /readyz
        certmond check

4. If the log of a server repeats `CA cert validation failed` with `certificate has expired` for port 9345 or 6443, the
   certificate of this port blocks the start. This occurs in releases of RKE2 without a fix of June 2025
   ([rke2#8318](https://github.com/rancher/rke2/issues/8318), [k3s#12472](https://github.com/k3s-io/k3s/issues/12472)).
   Upgrade RKE2, or let the server create this certificate again as its maintainers describe in
   [rke2#4372](https://github.com/rancher/rke2/issues/4372). `rke2-killall.sh` also stops the containers of this node:

        rke2-killall.sh
        mv /var/lib/rancher/rke2/server/tls/dynamic-cert.json /root/
        systemctl start rke2-server
        kubectl -n kube-system delete secret rke2-serving    # when the API answers; k3s: k3s-serving
        systemctl restart rke2-server

5. Restart the agents when the servers are ready, because a server signs their certificates:

        systemctl restart k3s-agent    # RKE2: rke2-agent

6. Replace copies of `k3s.yaml` and `rke2.yaml`, because the start writes only the original.

If a service runs with expired certificates, and the API answers, `for_renewal` restarts this service, also during an
upgrade. Servers restart one at a time, and agents wait while a server restarts.
"""


_ABOUT = {
    "kubeadm": About(
        "kubeadm",
        "This profile is for nodes of kubeadm v1.24 to v1.36: control planes and workers, with stacked or external "
        "etcd. kubeadm itself renews certificates at an upgrade or on command "
        "([migration from kubeadm](migration/kubeadm.md)).",
    ),
    "starlingx": About(
        "StarlingX",
        "This profile is the profile `kubeadm` with some differences. The Service Manager runs etcd, whose files are "
        "in `/etc/etcd`. The files that kubeadm creates for etcd do not exist on such a node. The API server uses port "
        "16443, as its manifest states. HAProxy uses a bundle with the certificate and key of `admin.conf`, and "
        "platform services read `admin.conf`. The daily script `kube-cert-rotation.sh` renews the same certificates, "
        "so [use either certmond or the script](migration/starlingx.md).\n\n"
        "certmond watches the platform certificates, and renews none of them. It compares the copies in "
        "`/opt/platform/config` with their originals, and reports a difference as "
        "[`copy_differs`](runbook.md#copy_differs). The entries name all files that the collect tool of StarlingX "
        "lists.\n\n"
        "certmond restarts services of the Service Manager with `sm-restart` after it has renewed their certificates. "
        "certmond cannot determine the age of such a service, so it never restarts the service because of its age.",
        "the Secrets of cert-manager, from which cert-mon installs the platform certificates, and the certificates of "
        "OIDC, which exist only as Secrets. A file of OIDC that a flag of the API server names becomes an entry "
        "([References](references.md)).",
    ),
    "kubespray": About(
        "kubespray",
        "The profile of kubeadm with its files in `/etc/kubernetes/ssl`, to which `/etc/kubernetes/pki` is a symlink, "
        "and the kubelet's configuration in `/etc/kubernetes/kubelet-config.yaml`. etcd is a unit of systemd with "
        "files in `/etc/ssl/etcd/ssl`, one for each host of the inventory. kubespray signs them on the first etcd "
        "node for 100 years, and a run of its cluster playbook replaces all of them, so certmond never renews them. "
        "With `etcd_deployment_type: kubeadm`, etcd is a static Pod with the files of kubeadm. "
        "`auto_renew_certificates: true` makes a timer renew the certificates of kubeadm: use only one of the two. An "
        "upgrade with kubespray renews them, too.",
        "the copies of the etcd CA in the directories of the operating system's CAs, and the certificates that "
        "network plugins copy. certmond compares no certificate with the one that etcd serves, because the name of "
        "its file differs between the nodes.",
    ),
    "kops": About(
        "kOps",
        "This profile is for control planes, API servers and workers. kOps issues the certificates of a control plane "
        "at each boot, for 455 to 485 days. kOps issues the certificates of a worker only when the worker joins. So "
        "replace the nodes with `kops rolling-update cluster` before certmond reports that a certificate is due. "
        "etcd-manager issues the certificates of etcd at each start, for two years. After a boot, a component can "
        "still use the kubeconfig of the previous boot. certmond then reports that this component must restart.",
        "the kubeconfig in the home directory of the administrator, and `service-account.pub`, because keys do not "
        "expire. certmond compares no certificate with the one that etcd or kops-controller serves. On "
        "Container-Optimized OS, the files are in `/etc/srv/kubernetes` and `/mnt/disks`: set `path` and `key` in your "
        "entries.",
    ),
    "k3s": About(
        "k3s",
        "This profile is for k3s servers and agents, with embedded etcd or another datastore. When k3s starts, it "
        "renews each leaf that expires within 120 days (90 days in releases before May 2025). If a node restarts k3s "
        "every quarter, no further action is necessary. Otherwise certmond reports a leaf 30 days before it expires. "
        "With `restart: {for_renewal: true}`, certmond then restarts k3s in enforce mode, and verifies that k3s has "
        "renewed its certificates ([Restarts](restarts.md#certificates-that-a-service-issues-at-its-start)). "
        "Each file contains a leaf and its CA. `k3s certificate check` prints the dates. After "
        "`k3s certificate rotate`, k3s renews all leaves at its next start.",
        "the Secret with the certificate on port 6443, but watches the certificate that k3s serves. On a server "
        "without an API server (`--disable-apiserver`), port 6444 forwards to another server. On such a server, set "
        "`serves` of the service `k3s` without port 6444. certmond reports intermediate CAs, because it supports only "
        "Root CAs. If k3s runs with `--write-kubeconfig-mode 644`, certmond reports that all users can read the key of "
        "the administrator.",
        _RECOVERY,
    ),
    "rke2": About(
        "RKE2",
        "This profile is similar to the profile `k3s`, but the components are static Pods. `rke2-server` writes the "
        "files and manifests of the components when it starts. So certmond restarts `rke2-server` instead of single "
        "Pods. certmond inspects Pods with `/var/lib/rancher/rke2/bin/crictl`.",
        "the Secret with the certificate on port 9345, but watches the served certificate. The remarks about "
        "[k3s](#k3s) also apply to RKE2, and so does [the order after a long "
        "downtime](#k3s-and-rke2-certificates-that-expired-while-the-nodes-were-off).",
    ),
    "k0s": About(
        "k0s",
        "This profile is for k0s controllers, workers, and nodes with both roles. At each start, k0s renews all leaves "
        "of a controller for one year. If a controller has run for too long without a restart, certmond reports a "
        "warning. The kubelet of a worker renews its own certificates.",
        "the certificates on the ports of konnectivity. It also does not watch `etcd/jwt.key`, which has no "
        "certificate.",
    ),
    "microk8s": About(
        "MicroK8s",
        "This profile is for control planes and workers. `server.crt` and `front-proxy-client.crt` are valid for one "
        "year, and MicroK8s does not renew these two certificates. In enforce mode, certmond renews both with the key "
        "of the CA on the node, and keeps their keys, like `microk8s refresh-certs`. All other certificates are valid "
        "for ten years. MicroK8s lets the group `microk8s` read and write all keys. So certmond renews `server` and "
        "`front-proxy-client` only if you set `owner: root:microk8s` in your entries for `server`, "
        "`front-proxy-client`, `ca` and `front-proxy-ca`.",
        "the certificates and keys from which MicroK8s made the kubeconfigs in `credentials/`, because no component "
        "reads these files. It also does not watch `serviceaccount.key`, which has no certificate.",
    ),
    "k8s-snap": About(
        "Canonical Kubernetes (k8s-snap)",
        "For a control plane or worker. k8sd signs with one CA for servers and one for clients, for 20 years, and for "
        "10 on a worker. certmond only watches: an operator renews with `k8s refresh-certs`, which does not renew the "
        "certificates of etcd.",
        "`serviceaccount.key`, which has no certificate.",
    ),
    "microshift": About(
        "MicroShift",
        "This profile only watches. When MicroShift starts, it renews each certificate that has less than 210 days "
        "left, or less than 540 days if the validity is at least five years. MicroShift stops 120 days before the end "
        "of a certificate, or 360 days if the validity is at least five years. systemd then starts MicroShift again. "
        "If certmond reports a certificate as due, this has failed: restart MicroShift, and read its log.",
        "the `namedCertificates` of the configuration of MicroShift, the files of a second node, and the trust in the "
        "intermediate CA `kube-csr-signer`, for which it verifies dates only.",
    ),
    "etcd": About(
        "etcd without Kubernetes",
        "This profile is for a member of etcd that systemd runs, with the files of etcdadm. For other files, set "
        "`path` and `key` in your entries. If flags on the command line of etcd name files, certmond uses these files. "
        "The client certificates of etcdctl and of the API server have the group `system:masters`. To let certmond "
        "renew these two certificates, set their `subject` in your entries.",
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
    if about.recovery:
        yield about.recovery


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
    served = [f"{name}: {', '.join(endpoints)}" for name, endpoints in service.serves.items()]
    served += [f"in no file: {', '.join(service.listens)}"] if service.listens else []
    return f"`{service.name}`", how, ", ".join(service.reloads), "; ".join(served)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell or ' ' for cell in row)} |" for row in lines) + "\n"
