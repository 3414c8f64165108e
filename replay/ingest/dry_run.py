"""What an ingest would take and what it would refuse, with nothing written."""

from __future__ import annotations

from typing import Any

from replay.ingest.check import checked
from replay.ingest.source import IngestOptions, Source, SourceFormatError, SourceValueError
from replay.ingest.success import cut_at_first
from replay.ingest.write import Progress, nothing_to_store

SHOWN = 20


def inspect(source: Source, options: IngestOptions, progress: Progress | None) -> dict[str, Any]:
    """Read and check every episode as an ingest would, going on behind a bad one.

    Returns:
        JSON-able: kind, name, env, observation, action_low, action_high, info_columns, episodes, steps, terminated and
        truncated of the sound episodes, mended, refused (the first `SHOWN` messages) and refused_episodes. One refused
        episode makes the whole ingest fail: then nothing is stored. Of another store the first bad
        episode is refused and only steps are counted (`episodes` is None).
    """
    described = source.description
    counts: dict[str, Any] = dict.fromkeys(("episodes", "steps", "terminated", "truncated"), 0)
    refused: list[str] = []
    number = done = 0
    try:
        for recorded in source.episodes():
            done += len(recorded.rewards)
            if not len(recorded.rewards):
                source.notes["empty_episodes"] += 1
                continue
            try:
                episode = checked(recorded, described, clip_actions=options.clip_actions, notes=source.notes)
            except (SourceValueError, SourceFormatError) as error:
                number += 1
                if number <= SHOWN:
                    refused.append(str(error))
                continue
            if options.terminate_on is not None:
                episode, left_out = cut_at_first(episode, options.terminate_on)
                source.notes["steps_after_success"] += left_out
            counts["episodes"] += 1
            counts["steps"] += len(episode.rewards)
            counts["terminated"] += episode.terminated
            counts["truncated"] += episode.truncated or not episode.terminated
            source.notes["episodes_without_end_flag"] += not (episode.terminated or episode.truncated)
            if progress is not None:
                progress(done, described.total_steps)
        if source.copy is not None:
            source.copy(None, progress)
        elif not counts["episodes"] and not refused:
            raise nothing_to_store(described)
    except (SourceValueError, SourceFormatError) as error:
        # The source cannot be read past this point: what follows is unknown.
        number += 1
        refused.append(str(error))
    if source.copy is not None:
        counts = dict.fromkeys(counts)
        counts["steps"] = (described.total_steps or 0) - source.notes["steps_after_success"]
    return {
        "kind": described.kind,
        "name": described.name,
        "env": described.env,
        "observation": list(described.observation),
        "action_low": list(described.action_low),
        "action_high": list(described.action_high),
        "info_columns": list(described.info),
        **counts,
        "mended": {kind: count for kind, count in source.notes.items() if count},
        "refused": refused,
        "refused_episodes": number,
    }
