"""The daemon: its loop, the reconciliation of each pass, and its notifications to systemd."""
