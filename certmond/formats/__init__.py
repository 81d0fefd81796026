"""Parsers and editors for the files of a Kubernetes node, such as kubeconfigs, manifests and private keys."""

from certmond.library_subset import defer_patterns

# Only PyYAML's parser in Python uses this expression; certmond uses libyaml. The compilation takes 6 ms.
defer_patterns("yaml.reader")
