"""Controllers that drive one thing to its desired state: renewals, restarts, and the rotation of a CA."""
