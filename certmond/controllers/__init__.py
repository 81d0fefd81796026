"""Controllers that bring the node to its desired state: renewals, restarts, and the rotation of a CA."""
