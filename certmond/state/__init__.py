"""The state directory: archive, renewals, requests, rotation."""
