"""Entries for certificates to which a flag or a field in the files of the node refers."""
