"""certmond watches, verifies and renews the certificates that a Kubernetes node uses."""

__version__ = "0.1.0"
