"""World × policy: simulated environments behind one flat float32 interface, and the scripted experts for them.

Importing this package is cheap: the simulators load when `envs.make.make_env` is first used.
"""

from envs.catalog import CATALOG, Task, evaluation_spec, lookup, normalized_score, training_spec
from envs.errors import EnvError, EnvFault

__all__ = ["CATALOG", "EnvError", "EnvFault", "Task", "evaluation_spec", "lookup", "normalized_score", "training_spec"]
