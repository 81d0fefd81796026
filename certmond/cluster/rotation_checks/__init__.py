"""Checks of the cluster before a phase of a rotation ends, and the changes that a rotation makes there."""
