"""Access to the cluster of this node through the Kubernetes API. The calls need the extra `certmond[kubernetes]`."""
