"""File formats of Kubernetes: kubeconfig, manifest, kubelet PEM, kubeadm configuration, private key, PKCS#12."""
