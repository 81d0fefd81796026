"""Parsers and editors for the files of a Kubernetes node, such as kubeconfigs, manifests and private keys."""
