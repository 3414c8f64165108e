"""Ways to run one update, `Algorithm.step`: as written or compiled. None of them knows what an update computes."""
