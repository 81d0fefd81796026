"""Checks of the cluster before a phase of a rotation ends, and the changes of a rotation to objects of the cluster."""
