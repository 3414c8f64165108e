"""Benchmarks: `python -m benchmarks` lists them, `python -m benchmarks.NAME [--quick] [--json FILE]` runs one."""
