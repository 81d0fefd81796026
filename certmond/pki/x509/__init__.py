"""X.509 certificates, and the search for certification paths (RFC 5280)."""
