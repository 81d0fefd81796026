"""Checks of the cluster that a rotation makes before a phase ends, and updates of CAs in objects of the cluster."""
