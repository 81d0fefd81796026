"""Entries of the catalogue, and observations of their files."""
