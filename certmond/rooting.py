"""The verbs `root-ca`."""
