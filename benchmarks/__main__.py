"""List the benchmarks with the first line of what each measures."""

from benchmarks import listed

for name, measures in listed().items():
    print(f"  {name:<16} {measures}")
