"""What a rotation checks in the cluster before a phase ends, and what it changes there."""
