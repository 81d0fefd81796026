"""Benchmarks of certmond: `python -m benchmarks`."""
