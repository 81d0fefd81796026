"""Write docs/profiles.md: tables of the entries and services of each shipped profile.

Owns the description of each distribution. The tables come from the profiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.service_spec import ServiceSpec

_HEAD = """# Profiles

*Reference: the certificates and services of each profile, and the differences between distributions.*

    certmond discover     # the distribution of this node, and a configuration for it

A **profile** lists the certificates of a node of one distribution, in the format of the configuration. For each
certificate, the profile contains the path of the file, the requirements, and the services that use the certificate. The
profile also defines how each service loads a new certificate. The default profile is `kubeadm`.

`certmond check --profile k3s` checks a node once with the profile `k3s`. To set a profile permanently, add the key
`profile` to `/etc/certmond/config.yaml`:

```yaml
profile: k3s
```

Your configuration can change entries of the profile, or add entries
([configuration](configuration.md#how-files-are-joined)). For example, you can set a different path or port. By default,
certmond does not renew a certificate that the distribution renews. To let certmond renew such a certificate, set
`renewed_by: null` in its entry. If the profile sets the key `renewed_at_start` in this entry, also set
`renewed_at_start: null`. With `profile: none`, certmond uses only your entries.

The first table of each section lists the entries, and the second table lists the services. The tables have these
columns:

- **CA**: the entry of the trust anchor of the certificate. If the column contains several entries, the certificate must
  have a certification path to one of these trust anchors. *itself* marks a Root CA, and *self* marks a self-signed
  certificate.
- **renewed by**: the program or person that renews the certificate. If the column names *certmond*, certmond renews the
  certificate in enforce mode. The `signer` of the entry signs the new certificate. By default, this signer is the key
  of the CA on the node. In observe mode, certmond only reports that the certificate is due. If the column does not name
  certmond, certmond never renews the certificate. If such a certificate is due, `certmond check` and `certmond plan`
  print the text of this column.
- **read by**: the services that read the file. *operators* means that no service of the profile reads the file.
- **reloads**: the entries whose changed files the service loads without a restart.
- **served at**: the endpoints at which a service serves a certificate. In both modes, certmond connects to these
  endpoints and compares the served certificate with the file. *in no file* marks endpoints whose certificate is in no
  watched file ([References](references.md#certificates-in-no-file)). For static Pods of kubeadm, certmond reads the
  endpoints from the flags of the Pod, so this column does not list these endpoints.
"""


@dataclass(frozen=True)
class About:
    """A distribution: its heading, its description, and the certificates that certmond does not watch.

    `files` is the origin of the files in the tests.
    `recovery` contains sections with instructions, such as for certificates that expired while the node was off.
    """

    title: str
    text: str
    unseen: str = ""
    files: str = "tree"
    recovery: str = ""


_RECOVERY = """\
### k3s and RKE2: certificates that expired while the nodes were off

At their start, k3s and RKE2 also issue expired leaves again. If all servers were off, the API does not answer until a
majority of the servers has started. Without the API, certmond cannot acquire the restart lock, and holds the
restart of a server ([`without_api`](cluster.md#without-the-api)). Therefore, use systemctl on each server, and keep
this order:

1. Correct the clock of each node (`timedatectl`). If the clock is wrong, the service issues certificates
   with wrong dates when it starts.
2. Start the servers one after the other, but do not wait until the first server is ready. With embedded etcd, a server
   becomes ready only when a majority of the members has valid certificates.

        systemctl restart --no-block k3s    # RKE2: rke2-server

3. Wait until the API answers on each server, and look for certificates that the service has not renewed at its start:

        kubectl get --raw /readyz
        certmond check

4. The log of a server might repeat `CA cert validation failed` with `certificate has expired` for port 9345 or 6443. In
   this case, the certificate of this port blocks the start. This problem occurs in releases of RKE2 before a fix of
   June 2025 ([rke2#8318](https://github.com/rancher/rke2/issues/8318),
   [k3s#12472](https://github.com/k3s-io/k3s/issues/12472)). Upgrade RKE2, or let the server create this certificate
   again as the maintainers of RKE2 describe in [rke2#4372](https://github.com/rancher/rke2/issues/4372).
   `rke2-killall.sh` also stops the containers of this node:

        rke2-killall.sh
        mv /var/lib/rancher/rke2/server/tls/dynamic-cert.json /root/
        systemctl start rke2-server
        kubectl -n kube-system delete secret rke2-serving    # when the API answers; k3s: k3s-serving
        systemctl restart rke2-server

5. Restart the agents when the servers are ready, because a server signs the certificates of the agents:

        systemctl restart k3s-agent    # RKE2: rke2-agent

6. Replace copies of `k3s.yaml` and `rke2.yaml`, because k3s and RKE2 write only the original files when they start.

If a service runs with expired certificates, and the API answers, certmond in enforce mode with
`restart: {for_renewal: true}` restarts this service, even during an upgrade. Servers restart one at a time, and agents
wait while a server restarts.
"""

_REPLACEMENT = """\
### Replace the CAs of k3s or RKE2

k3s and RKE2 keep their CAs in the datastore, and replace all of them with one command, `k3s certificate rotate-ca`
(since February 2023, v1.24.11). `certmond root-ca stage` creates the new CAs for this command. `certmond root-ca
rotate` runs the command, restarts the node, and verifies the result. The same command then leads each other node to
the new CAs.

1. Check each node, and correct every finding. With embedded etcd, save a snapshot, because k3s keeps no copy of the
   old keys:

        certmond check
        k3s etcd-snapshot save

2. On one server, create the new CAs, and replace the CAs. With `--dry-run`, `stage` only prints the files, and
   `rotate` only prints the steps:

        certmond root-ca stage
        certmond root-ca rotate

3. On each other server, one after the other. If the configuration of k3s names no server to join, or names a
   load balancer, add `--server HOST:PORT` with the address of the first server (port 6443 of k3s, port 9345 of RKE2):

        certmond root-ca rotate

4. On each agent, when all servers have the new CAs:

        certmond root-ca rotate

5. Replace copies of `k3s.yaml`, because k3s writes only the original file. A copy works until its client certificate
   or the old Root CA expires. Replace the tokens that you keep elsewhere and that begin with `K10`, for example in the
   configuration of an autoscaler. `/var/lib/rancher/k3s/server/token` on a server contains the new token.

If a command is interrupted, or stops with an error, run the same command again. The command finds the state of the
change in the CA files of the node and on the servers. Until the end, `certmond plan` and `certmond root-ca show` print
the next command.

| command | what certmond does |
| --- | --- |
| `root-ca stage` | creates new CAs for the five CAs of the server in `/var/lib/rancher/k3s/server/rotate-ca/tls`, \
which only root can read. certmond refuses this step if the key of a Root CA is not on the node. No other file \
changes |
| `root-ca rotate` on this server | 1. verifies the staged CAs, and names every problem before it runs a command |
| | 2. runs `k3s certificate rotate-ca --path=/var/lib/rancher/k3s/server/rotate-ca`, which changes no file |
| | 3. restarts k3s, and proves the restart ([Restarts](restarts.md)). At its start, k3s writes the new CAs, and \
issues every leaf that the new CA has not signed |
| | 4. verifies the CA files, the issuer of each leaf, and the certificates that k3s serves. If one of them is old \
after `restart.ready_within`, certmond names it and stops |
| | 5. removes the staged CAs |
| `root-ca rotate` on another node | 1. compares the CA of the node with the CA that the servers publish at \
`/cacerts`. On an agent, these are the servers in the file of its load balancer. If one of them publishes the old \
CA, certmond refuses the restart and names this server |
| | 2. refuses the restart if a token in the configuration of k3s contains the hash of the old CA (`K10…`), because \
k3s would not start with this token. The message contains the place of the token and the new hash |
| | 3. restarts k3s, and verifies the result as on the first server |
| `root-ca abort` | removes the staged CAs, unless `k3s certificate rotate-ca` has received them. From then on, the \
next start of k3s installs the new CAs |

If a daemon in enforce mode runs on the node, this daemon executes the restart. With [`cluster:`](cluster.md), a server
restarts only with the restart lock. certmond writes nothing into `/var/lib/rancher/k3s/server/tls`: if a file there is
newer than the datastore, k3s does not start. The commands are the same on RKE2, with `rke2` in place of `k3s`.

Each new file contains a new intermediate CA, its new Root CA signed by the old Root CA, the new Root CA, and the old
Root CA. Therefore, old and new certificates are valid at the same time, and a client that trusts only the old Root CA
accepts the new certificates. The script of k3s, [rotate-default-ca-certs.sh][k3s-script], writes the same certificates
in another order. Clients with OpenSSL that trust only the old Root CA refuse this order.

#### Your own CA

To use CAs that your organization has signed, write them into `/var/lib/rancher/k3s/server/rotate-ca/tls` yourself,
then run `certmond root-ca rotate`. If a file is missing or empty, k3s keeps the present file:

| file | condition |
| --- | --- |
| `client-ca.crt`, `server-ca.crt`, `request-header-ca.crt`, `etcd/server-ca.crt`, `etcd/peer-ca.crt` | at least two \
certificates, also a Root CA. The first certificate signs the leaves, and must have a path to a Root CA in the \
present file. The path can contain other certificates of the new file, such as a cross-signed CA. certmond also \
requires the present Root CA in the new file, so that old certificates stay valid |
| the key beside each of these files, such as `client-ca.key` | the first key belongs to the first certificate |
| `service.key` | certmond does not verify this file. k3s requires the first key of the present file in it |

With `--force`, k3s stores CAs that do not fulfill these conditions. Old clients and running Pods then reject the new
certificates. certmond never uses `--force`. If a present Root CA has expired, no new CA fulfills these conditions, so
only `k3s certificate rotate-ca --force` can replace this CA.

certmond refuses a file that another user can replace, a symlink, and a private key in a `.crt` file, because k3s sends
this file to other nodes.

#### Findings during the change

| after | exit status of `certmond check` | findings |
| --- | --- | --- |
| `root-ca stage` | 0 | no new finding, because no file of the service has changed |
| `root-ca rotate` on a server | 0 | `ca_not_self_signed` with severity info for the new intermediate CA and the \
cross-signed CA of each file, such as `client-ca` and `client-ca#2`. These findings are permanent |
| `root-ca rotate` on an agent | 0 | the same info findings for `agent-client-ca` and `agent-server-ca` |
| the last seven days of the old Root CA | 2 | `nearing_expiry` for the old Root CA, such as `client-ca#4`. Within \
180 days of its end, this finding is a warning |
| the end of the old Root CA | 1 | `expired`, a warning, for the old Root CA |

If the file of an intermediate CA lacks its Root CA, `ca_not_self_signed` is critical. If a leaf has no path to a CA on
the node, `no_path` is critical. If k3s has not written `k3s.yaml` again, `embedded_ca_differs` is a warning.

#### Remove the old Root CA

Remove the old Root CA only when every node has started with the new CAs, and you have replaced every copy of a
kubeconfig. On one server, write the first and the third certificate of each CA file, which are the intermediate CA and
its Root CA, into `/var/lib/rancher/k3s/server/rotate-ca/tls` with the same names. Keys are not necessary there,
because the keys stay the same. Then repeat the steps from `certmond root-ca rotate`:

    cd /var/lib/rancher/k3s/server
    mkdir -m 700 rotate-ca && mkdir -p rotate-ca/tls/etcd
    for ca in client-ca server-ca request-header-ca etcd/server-ca etcd/peer-ca; do
      awk '/BEGIN CERTIFICATE/ { n++ } n == 1 || n == 3' tls/$ca.crt > rotate-ca/tls/$ca.crt
    done

The statements about k3s are from these files of its source code. The tests of certmond use a stand-in for k3s, and do
not run k3s.

| file | commit | function |
| --- | --- | --- |
| `pkg/cli/cert/cert.go` | 02149a3f | rotateCA |
| `pkg/server/handlers/cert.go` | 389bceff | defaultBootstrap, validateBootstrap |
| `pkg/daemons/control/deps/deps.go` | 09ac65a6 | fieldsChanged |
| `pkg/cluster/bootstrap.go` | unknown | ReconcileBootstrapData |
| `pkg/agent/config/config.go` | 001a6d94 | get |
| `pkg/clientaccess/token.go` | 0566d457 | hashCA |

[k3s-script]: https://github.com/k3s-io/k3s/blob/main/contrib/util/rotate-default-ca-certs.sh
"""


_ABOUT = {
    "kubeadm": About(
        "kubeadm",
        "This profile is for control planes and workers that kubeadm v1.24 to v1.36 created, with stacked or external "
        "etcd. kubeadm itself renews certificates only during an upgrade or on command ([migration from "
        "kubeadm](migration/kubeadm.md)).",
        files="a real kubeadm v1.24; `certmond init`",
    ),
    "starlingx": About(
        "StarlingX",
        "This profile is the profile `kubeadm` with the following differences. The Service Manager runs etcd, and "
        "the files of etcd are in `/etc/etcd`. The files that kubeadm creates for etcd do not exist on a StarlingX "
        "node. The API server uses port 16443, as its manifest states. HAProxy serves the external API on port 6443. "
        "HAProxy uses a bundle that contains the certificate and key of `admin.conf`, and reads the Root CA at its "
        "start. Platform services read `admin.conf`. The daily script `kube-cert-rotation.sh` renews the same "
        "certificates as certmond, so [use either certmond or the script](migration/starlingx.md).\n\n"
        "certmond watches the platform certificates, but does not renew these certificates. certmond compares the "
        "copies in `/opt/platform/config` with their originals, and reports a difference as "
        "[`copy_differs`](runbook.md#copy_differs). The profile has an entry for every file that the collect tool of "
        "StarlingX lists.\n\n"
        "After certmond has renewed the certificates or changed the CA of a service of the Service Manager, certmond "
        "restarts the service with `sm-restart` or `sm-restart-safe`. These programs only send a request to the "
        "Service Manager. Therefore, certmond reads the PID file from which the Service Manager finds the process, and "
        "verifies that the service has a new process ([PID files](restarts.md#pid-files)). A service without a PID "
        "file does not run on the node, as on a standby controller.",
        "the Secrets of cert-manager, from which cert-mon installs the platform certificates. certmond also does not "
        "watch the certificates of the OIDC provider, which exist only as Secrets. If a flag of the API server, such "
        "as `--oidc-ca-file`, contains the path of a certificate file, certmond creates an entry for this file "
        "([References](references.md)).",
    ),
    "kubespray": About(
        "kubespray",
        "This profile is the profile `kubeadm` with the following differences. The files of kubeadm are in "
        "`/etc/kubernetes/ssl`, and `/etc/kubernetes/pki` is a symlink to this directory. The configuration of the "
        "kubelet is in `/etc/kubernetes/kubelet-config.yaml`. etcd is a systemd unit. The files of etcd are in "
        "`/etc/ssl/etcd/ssl`, with a separate certificate for each host of the inventory. kubespray signs these "
        "certificates on the first etcd node, with a validity of 100 years (`certificates_duration`). Each run of the "
        "cluster playbook issues these certificates again. The directory belongs to the user etcd, so certmond does "
        "not renew these certificates unless you [add an entry](migration/kubespray.md#etcd-as-a-unit) with this "
        "owner. With "
        "`etcd_deployment_type: kubeadm`, etcd is a static Pod with the files of kubeadm. With "
        "`auto_renew_certificates: true`, a timer renews the certificates of kubeadm, and certmond reports "
        "[`second_renewer`](runbook.md#second_renewer) in enforce mode. An upgrade with kubespray also renews the "
        "certificates of kubeadm. See [From the renewal timer of kubespray](migration/kubespray.md).",
        "the copies of the etcd CA in the CA directories of the operating system, or the certificates that network "
        "plugins copy. certmond does not compare the served certificate of etcd with a file, because the name of "
        "this file differs between the nodes.",
    ),
    "kops": About(
        "kOps",
        "This profile is for control planes, API servers and workers. kOps issues the certificates of a control "
        "plane at each boot, with a validity of 455 to 485 days. kOps issues the certificates of a worker only when "
        "the worker joins. Therefore, replace the nodes with `kops rolling-update cluster` before certmond reports "
        "that a certificate is due. etcd-manager issues the certificates of etcd at each start, with a validity of "
        "two years. After a boot, a component might still use the kubeconfig of the previous boot. In this case, "
        "certmond reports that the component must restart.",
        "the kubeconfig in the home directory of the administrator. certmond also does not watch "
        "`service-account.pub`, because keys do not expire. certmond does not compare the served certificates of "
        "etcd and kops-controller with files. On Container-Optimized OS, the files are in `/etc/srv/kubernetes` and "
        "`/mnt/disks`. For these paths, set `path` and `key` in your entries. On AWS, the name of the node is its "
        "instance ID, but `certmond discover` writes the host name as `node_name`. If your entries use "
        "`${node_name}`, set `node_name` to the instance ID.",
    ),
    "k3s": About(
        "k3s",
        "This profile is for k3s servers and agents, with embedded etcd or another datastore. At its start, k3s "
        "renews each leaf that expires within 120 days (90 days in releases before May 2025). If k3s on a node "
        "restarts at least every three months, no further action is necessary. Otherwise certmond reports a leaf 30 "
        "days before the leaf expires. With `restart: {for_renewal: true}`, certmond then restarts k3s in enforce "
        "mode, and verifies that k3s has renewed its certificates "
        "([Restarts](restarts.md#certificates-that-a-service-issues-at-its-start)). The file of each leaf also "
        "contains the certificate of its CA. `k3s certificate check` prints the dates of the certificates. After "
        "`k3s certificate rotate`, k3s renews all leaves at its next start. On request, certmond [replaces the "
        "CAs](#replace-the-cas-of-k3s-or-rke2).",
        "the Secret with the certificate of port 6443, but watches the certificate that k3s serves on this port. On a "
        "server without an API server (`--disable-apiserver`), k3s forwards port 6444 to another server. On such a "
        "server, omit port 6444 from `serves` of the service `k3s`. If the file of a CA contains an intermediate "
        "CA and its Root CA, certmond reports the intermediate CA with severity info. If the Root CA is missing from "
        "the file, the finding is critical. If k3s runs with `--write-kubeconfig-mode 644`, certmond reports that all "
        "users can read the key of the administrator.",
        recovery=_RECOVERY + "\n" + _REPLACEMENT,
    ),
    "rke2": About(
        "RKE2",
        "This profile is similar to the profile `k3s`, but the components are static Pods. At its start, "
        "`rke2-server` writes the files and manifests of the components. Therefore, certmond restarts `rke2-server` "
        "instead of individual Pods. certmond inspects Pods with `/var/lib/rancher/rke2/bin/crictl`.",
        "the Secret with the certificate of port 9345, but watches the certificate that `rke2-server` serves on this "
        "port. The notes on intermediate CAs and on `--write-kubeconfig-mode` in [k3s](#k3s) also apply to RKE2, "
        "and so do [the order after a long "
        "downtime](#k3s-and-rke2-certificates-that-expired-while-the-nodes-were-off) and [the replacement of the "
        "CAs](#replace-the-cas-of-k3s-or-rke2).",
    ),
    "k0s": About(
        "k0s",
        "This profile is for k0s controllers, workers, and nodes with both roles. At each start, k0s issues all "
        "leaves of a controller again, with a validity of one year. Without the key of a CA, a start might create a "
        "new CA, so certmond then holds the restart. "
        "If a leaf becomes due because a controller has not restarted for too long, certmond reports a warning. With "
        "`restart.for_renewal: true`, certmond restarts `k0scontroller` in enforce mode before the leaves expire, one "
        "controller at a time ([certificates that a service issues at its "
        "start](restarts.md#certificates-that-a-service-issues-at-its-start)). The kubelet of a worker renews its own "
        "certificates. To start again after a long downtime, start the controllers, then the workers. A worker whose "
        "certificate has expired needs a new join token.",
        "the certificates that konnectivity serves on its ports. certmond also does not watch `etcd/jwt.key`, "
        "because this file contains a key without a certificate.",
    ),
    "microk8s": About(
        "MicroK8s",
        "This profile is for control planes and workers. `server.crt` and `front-proxy-client.crt` are valid for "
        "one year. MicroK8s issues these two certificates again, with the present keys, only if an address of the "
        "node changes. With the file `var/lock/no-cert-reissue` or a configured address, MicroK8s issues "
        "`server.crt` again only if the CA does not verify it. In enforce mode, certmond renews both certificates "
        "with the key of the CA on the node. As `microk8s refresh-certs` does, certmond keeps the keys of both "
        "certificates. MicroK8s permits the group `microk8s` to read and write all keys. Therefore, certmond "
        "renews `server` and `front-proxy-client` only if you set `owner: root:microk8s` in your entries for "
        "`server`, `front-proxy-client`, `ca` and `front-proxy-ca`. MicroK8s creates the kubeconfigs in "
        "`credentials/` from the pairs `client`, `controller`, `scheduler` and `proxy`, and no component reads "
        "these pairs.\n\n"
        "All other leaves are valid for ten years, as the CA is. MicroK8s issues a leaf after its CA. Therefore, "
        "a leaf ends with the CA or later, and a renewal by certmond could not make the leaf valid for longer. To "
        "replace the CA and all leaves, run this command on one control plane. The other nodes must leave the "
        "cluster and join again:\n\n"
        "    microk8s refresh-certs --cert ca.crt\n\n"
        "The leaves can end before the CA if you have installed a CA with a longer validity, or if a release "
        "before v1.19 created the CA. certmond reports these leaves 30 days before their end. These commands "
        "issue all leaves of a node again, with the present CA and the present keys, and restart `kubelite` and "
        "the cluster agent. Run them on each control plane. A worker gets new certificates if it leaves the "
        "cluster and joins again:\n\n"
        "    install -d -m 0700 /var/snap/microk8s/common/ca\n"
        "    cp /var/snap/microk8s/current/certs/ca.{crt,key} /var/snap/microk8s/common/ca\n"
        "    microk8s refresh-certs /var/snap/microk8s/common/ca\n"
        "    rm -r /var/snap/microk8s/common/ca\n\n"
        "`microk8s refresh-certs` copies the previous files to `/var/snap/microk8s/current/certs-backup`, and "
        "`microk8s refresh-certs --undo` restores them.",
        "`serviceaccount.key`, because this file contains a key without a certificate.",
    ),
    "k8s-snap": About(
        "Canonical Kubernetes (k8s-snap)",
        "This profile is for control planes and workers. k8sd signs server certificates and client certificates with "
        "separate CAs. The certificates of a control plane are valid for 20 years, and the certificates of a worker "
        "for 10 years. certmond only watches the certificates. An operator renews the certificates with "
        "`k8s refresh-certs`. This command does not renew the certificates of etcd.",
        "`serviceaccount.key`, because this file contains a key without a certificate.",
    ),
    "microshift": About(
        "MicroShift",
        "With this profile, certmond only watches the certificates. At its start, MicroShift renews each certificate "
        "that expires within 210 days, or within 540 days if the validity is at least five years. MicroShift stops "
        "120 days before a certificate expires, or 360 days if the validity is at least five years. systemd then "
        "starts MicroShift again. If certmond reports a certificate as due, MicroShift has not renewed the "
        "certificate in time. In this case, restart MicroShift, and read its log.",
        "the `namedCertificates` in the configuration of MicroShift, or the files of a second node. For the "
        "intermediate CA `kube-csr-signer`, certmond verifies only the dates, not the certification path.",
    ),
    "etcd": About(
        "etcd without Kubernetes",
        "This profile is for an etcd member that systemd runs, with the files of etcdadm. For files with other "
        "paths, set `path` and `key` in your entries. If flags on the command line of etcd name files, certmond uses "
        "these files. The subjects of the client certificates of etcdctl and of the API server contain the group "
        "`system:masters`. Therefore, certmond renews these two certificates only if you set `subject` in your own "
        "entries.",
    ),
}


_OVERVIEW = """## Overview

The columns of the table, which comes from the profiles, have this meaning:

- **files in the tests**: *tree* means that the tests create the files as the source code of the distribution creates
  them. For kubeadm, the tests contain the files of a real kubeadm, and run `certmond init`.
  [Compatibility](compatibility.md#versions-and-distributions) lists the runs with real components.
- **certmond renews**: the number of entries of leaves that certmond renews in enforce mode, of all entries of leaves.
- **others renew**: who renews the other leaves. certmond watches, verifies and reports these leaves.
- **restart**: the services that certmond restarts in enforce mode because they have not loaded a changed file.
  *with `for_renewal`* means that certmond restarts a service so that the service issues its certificates again
  ([Restarts](restarts.md#certificates-that-a-service-issues-at-its-start)). *no* means that certmond restarts no
  service.
- **rotation**: the trust anchors that certmond rotates. *together* marks CAs that certmond replaces with the command of
  the distribution, on request ([k3s and RKE2](#replace-the-cas-of-k3s-or-rke2)).
- **reported instead**: who replaces the other CAs and keys for tokens. `certmond check` and `certmond plan` print this
  text when a CA is due, and `certmond root-ca rotate` prints this text when the command refuses the rotation.
"""


def reference() -> str:
    """Return docs/profiles.md."""
    sections = (line for name, about in _ABOUT.items() for line in _section(name, about))
    return "\n".join([_HEAD, _OVERVIEW, _overview(), *sections])


def _overview() -> str:
    head = (
        "profile", "files in the tests", "certmond renews", "others renew", "restart", "rotation", "reported instead",
    )  # fmt: skip
    return _table(head, (_summary(name, about, parse((), profile=name)) for name, about in _ABOUT.items()))


def _summary(name: str, about: About, config: Config) -> tuple[str, ...]:
    trust = [spec for spec in config.certificates if spec.is_trust]
    leaves = [spec for spec in config.certificates if not spec.is_trust]
    others = _distinct(_renewer(spec) for spec in leaves if spec.renewed_by or spec.kind is Kind.KUBELET)
    renewed = [spec for spec in leaves if not spec.renewed_by and spec.kind is not Kind.KUBELET]
    restarted = [each for each in config.services if _may_be_stale(each, config.certificates)]
    kinds = ", ".join(sorted({_KINDS[service.kind] for service in restarted}))
    starters = {name for spec in leaves if spec.renewed_at_start for name in spec.consumers}
    by_start = ", ".join(f"`{service.name}`" for service in config.services if service.name in starters)
    restart = "; ".join(filter(None, (kinds, by_start and f"{by_start} with `for_renewal`")))
    rotated = ", ".join(f"`{spec.name}`" for spec in trust if not spec.renewed_by)
    together = [spec for spec in trust if config.ca_replacement.replaces(spec.path)]
    if together:
        rotated = f"{', '.join(f'`{spec.name}`' for spec in together)}, together"
        trust = [spec for spec in trust if spec.renewed_by != together[0].renewed_by]
    return (
        f"[`{name}`](#{_anchor(about.title)})", about.files, f"{len(renewed)} of {len(leaves)}", others or "none",
        restart or "no", rotated or "no", _distinct(spec.renewed_by or "" for spec in trust),
    )  # fmt: skip


_KINDS = {"systemd": "units", "static-pod": "static Pods", "command": "commands"}


def _may_be_stale(service: ServiceSpec, certificates: Iterable[CertificateSpec]) -> bool:
    """Return whether certmond might restart the service because the service has not loaded a changed file."""
    used = [spec for spec in certificates if service.name in spec.consumers]
    by_kubelet = any(spec.kind is Kind.KUBELET and not spec.renewed_by for spec in used)
    return by_kubelet or any(spec.name not in service.reloads for spec in used)


def _renewer(spec: CertificateSpec) -> str:
    return spec.renewed_by or "the kubelet; certmond if the kubelet has failed"


def _distinct(texts: Iterable[str]) -> str:
    return ". ".join(dict.fromkeys(filter(None, texts)))


def _anchor(title: str) -> str:
    """Return the anchor of a heading, as in the site."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


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
    default = _renewer(spec) if spec.kind is Kind.KUBELET else "certmond"
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
