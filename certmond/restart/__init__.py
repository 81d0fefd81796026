"""Restart of services, the history of restarts, and the rollback to the previous files."""
