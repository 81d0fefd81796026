"""Atomic replacement of several files through directory descriptors."""
