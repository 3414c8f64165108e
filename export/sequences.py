"""What the parity gate asks of a recurrent policy beyond single steps: reachable states, and one whole sequence.

Shape legend: N observations, R rows of the sequence, O observation entries, A action entries, H entries of the state.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from export.contract_parts import Recurrent

Reference = Callable[[np.ndarray], tuple[np.ndarray, ...]]
RecurrentReference = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
Step = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]

# A state is reached by up to this many steps of other observations.
DEPTH = 4
# Along a sequence the rounding of one step is the input of the next. Networks that forget keep it near one step's
# (their states contract); one that magnifies it more than this would also drift apart between two processors.
SEQUENCE_MARGIN = 10.0


def initial_states(recurrent: Recurrent, count: int) -> np.ndarray:
    """The initial state, `count` times: [N, H] float32."""
    return np.tile(np.asarray(recurrent.initial, np.float32), (count, 1))


def reachable_states(step: Step, recurrent: Recurrent, inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """States [N, H] float32 that the network itself reaches: after 0 to DEPTH steps of shuffled `inputs` [N, O]."""
    states = initial_states(recurrent, len(inputs))
    depth = np.arange(len(inputs)) % (DEPTH + 1)
    for done in range(DEPTH):
        deeper = depth > done
        shuffled = inputs[rng.permutation(len(inputs))]
        states[deeper] = step(shuffled[deeper], states[deeper])["h_out"]
    return states


def run_sequence(step: Step, recurrent: Recurrent, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs [R, ...] of the network for `inputs` [R, O] in order, from the initial state."""
    state, rows = initial_states(recurrent, 1), []
    for row in inputs:
        rows.append(step(row[None], state))
        state = rows[-1]["h_out"]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
