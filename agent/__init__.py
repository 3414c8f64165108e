"""The agent: learning, the long-running runtime, and the `slipway` command. Alone above replay, envs and export."""

__version__ = "0.1.0"
