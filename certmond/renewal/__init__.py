"""Execution of renewals: certmond writes new certificates and keys, derived files, and repairs from the archive."""
