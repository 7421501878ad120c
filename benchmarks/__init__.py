"""Side-by-side measurements against peers and raw drivers: ``python -m benchmarks``."""
