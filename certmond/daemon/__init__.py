"""The daemon: its loop, the reconciliation of each pass, and the notifications to systemd."""
