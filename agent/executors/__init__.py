"""Ways to run one update, `IQL.step`: as written or compiled. None of them knows what an update computes."""
