"""Close the loop: fly a policy in the control loop, record what it did, and take the flights back as data.

python examples/fly_and_learn_again.py maze.policy
"""

import sys

from agent import deploy, ingest
from replay import Store


def main(policy: str) -> None:
    report = deploy(policy, episodes=3, record="flights.zarr")
    print(f"{report['state']}: {report['steps']} steps, p99 latency {report['latency_us']['p99']} µs")

    taken = ingest("flights.zarr", "again.zarr")
    print(f"took {taken['steps']} steps of {taken['episodes']} episodes back")
    assert Store.open("again.zarr").spec.layout_fingerprint == Store.open("flights.zarr").spec.layout_fingerprint


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "maze.policy")
