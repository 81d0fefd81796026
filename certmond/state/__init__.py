"""Contents of the state directory: archive, renewal attempts, pending requests, and rotation record."""
