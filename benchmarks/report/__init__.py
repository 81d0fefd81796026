"""The pages with the results, and the progress of the benchmarks."""
