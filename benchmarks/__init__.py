"""Benchmarks, run by hand or by `make bench`: every figure is a ratio to something measured in the same run."""
