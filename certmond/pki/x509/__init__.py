"""Certificates: parsing, names, and certification paths (RFC 5280)."""
