"""The signers: the CA of this node, kubeadm, and commands."""
