"""Controllers that bring the node to its desired state: renewals, restarts, and rotations."""
