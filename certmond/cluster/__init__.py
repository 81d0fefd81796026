"""Access to the cluster of this node through the Kubernetes API. Needs the extra `kubernetes`."""
