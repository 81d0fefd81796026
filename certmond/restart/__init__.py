"""The restart of a service: its act, its history, and the rollback to the previous files."""
