"""X.509 certificates: their parsing, their names, and the search for certification paths (RFC 5280)."""
