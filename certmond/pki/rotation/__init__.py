"""Rotation of a CA or of the service-account keys."""
