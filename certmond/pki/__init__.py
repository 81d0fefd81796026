"""Pure knowledge of the PKI of a Kubernetes node: no file, clock, log, thread or environment."""
