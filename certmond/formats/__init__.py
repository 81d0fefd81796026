"""Parsers and editors for files of a Kubernetes node, such as kubeconfigs, manifests and private keys."""
