"""The figures of certmond, measured: `python -m benchmarks`."""
