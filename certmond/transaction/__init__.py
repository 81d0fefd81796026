"""Atomic replacement of several files, by directory descriptors."""
