"""Controllers that bring the node to its desired state: by renewals, by restarts, and by the rotation of a CA."""
