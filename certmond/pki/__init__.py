"""Pure functions and values for the PKI of a Kubernetes node.

This package accesses no files, clocks, logs, threads or environment variables.
"""
