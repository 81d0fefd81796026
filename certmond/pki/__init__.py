"""Pure functions and values for the PKI of a Kubernetes node, without files, clock, log, threads or environment."""
