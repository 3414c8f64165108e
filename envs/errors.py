"""What can go wrong with an environment. No heavy imports: any layer may catch these."""

from __future__ import annotations


class EnvError(Exception):
    """The user's input does not fit: unknown id, unsupported space, wrong action. One line, with the mend.

    Mend: correct `--env`; the message names the nearest known ids.
    """


class EnvFault(EnvError):
    """The environment itself misbehaved: raised, returned NaN or infinity, or changed the shape of its observation.

    The step that faulted has no next observation; cut the episode before it and replace the environment.

    Mend: mend the environment; the same command then resumes.
    """

    def __init__(self, env_id: str, step: int, what: str) -> None:
        self.env_id = env_id
        self.step = step
        self.what = one_line(what)
        where = f"step {step}" if step else "reset"
        super().__init__(f"environment {env_id} failed at {where} of its episode: {self.what}")

    def __reduce__(self) -> tuple[type[EnvFault], tuple[str, int, str]]:
        return type(self), (self.env_id, self.step, self.what)


def one_line(text: object, limit: int = 300) -> str:
    """`text` without line breaks, cut to `limit` characters: error messages are one line."""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
