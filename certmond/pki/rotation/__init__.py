"""The rotation of a CA: its phases, gates and steps."""
