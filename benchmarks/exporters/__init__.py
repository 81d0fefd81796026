"""Comparison with other exporters."""
