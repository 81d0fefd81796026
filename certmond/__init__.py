"""certmond watches, proves and renews the certificates that a Kubernetes node uses."""
