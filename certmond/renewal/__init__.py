"""Execution of renewals: new certificates and keys, derived files, and repairs from the archive."""
