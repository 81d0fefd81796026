"""The cluster around this node, as the Kubernetes API shows it. Needs the extra `kubernetes`."""
