"""One file a verb: `Args` (a dataclass from which flags and help are made) and `run(args) -> exit code`."""
