"""Discovery of an installation: its distribution, and a configuration for it."""
