"""Rotation of a CA or of the service-account keys: its phases, the conditions of their end, and the steps."""
