"""Rotation of a CA or of the token keys: phases, gates and steps."""
