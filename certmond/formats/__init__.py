"""Parsers for files of a Kubernetes node, such as kubeconfigs, manifests, private keys and PKCS#12 files."""
