"""Entries for the certificates that the node's own files name by a flag or a field."""
