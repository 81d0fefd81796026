"""Discovery of the Kubernetes distribution of a node, and of a configuration that fits the node."""
