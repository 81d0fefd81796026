"""Atomic replacement of several files through directory descriptors, and the locks of the node."""
