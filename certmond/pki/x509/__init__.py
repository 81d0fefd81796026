"""X.509 certificates: parsing, names, and certification paths (RFC 5280)."""
