"""Access to the cluster of this node through the Kubernetes API. Needs `certmond[kubernetes]`."""
