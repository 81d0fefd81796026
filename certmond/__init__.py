"""certmond watches, verifies and renews the certificates that a Kubernetes node uses."""
