"""File formats of Kubernetes: kubeconfig, manifest, kubelet PEM, configuration of kubeadm, private key."""
