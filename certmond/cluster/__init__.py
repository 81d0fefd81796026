"""Access to the cluster of this node through the Kubernetes API, with the extra `certmond[kubernetes]`."""
