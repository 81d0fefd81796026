"""The state directory: archive, renewal attempts, pending requests, rotation record."""
