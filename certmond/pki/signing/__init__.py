"""What the key of the CA may sign, and what a new certificate says."""
