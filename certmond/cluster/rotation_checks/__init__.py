"""Checks of the cluster before a phase of a rotation ends, and updates of CAs in objects of the cluster."""
