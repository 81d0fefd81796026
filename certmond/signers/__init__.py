"""Signers of the kinds `local`, `kubeadm` and `command`. `cluster.csr_signer` is the signer of the kind `csr`."""
