"""The cluster of this node, as the Kubernetes API shows it. Needs the extra `kubernetes`."""
