"""The restart of a service: its act, its history, and the return to the former files."""
