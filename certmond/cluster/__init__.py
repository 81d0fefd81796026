"""Access to the cluster of this node through the Kubernetes API. This module needs `certmond[kubernetes]`."""
