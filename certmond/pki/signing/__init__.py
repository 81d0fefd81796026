"""Rules for the certificates that the key of a CA may sign, and for the contents of new certificates."""
