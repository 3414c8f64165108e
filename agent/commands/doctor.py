"""Find what is wrong with this installation or machine, and how to mend it: packages, names, torch, OpenGL, disk.

The exit code is 0 where nothing is broken (warnings cost speed or a feature) and 2 where something is.

Example:
  slipway doctor
  slipway doctor --folder /data --json
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from agent.console import messages, results, table, write_json
from agent.doctor import examine
from agent.errors import ConfigError

MARKS = {"ok": "ok", "warning": "! warning", "problem": "✗ problem"}


@dataclass(frozen=True, kw_only=True)
class Args:
    folder: Path = Path()
    """Folder whose disk is to hold stores and runs."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Examine and print."""
    if not args.folder.is_dir():
        raise ConfigError(f"--folder {args.folder} is no folder: give one that exists")
    with messages.status("examining"):
        findings = examine(args.folder)
    broken = [each for each in findings if each.state == "problem"]
    if args.json:
        write_json({"healthy": not broken, "checks": [asdict(each) for each in findings]})
        return 2 if broken else 0
    results.print(table("slipway doctor", ["what", "state", "found"], [
        [each.name, MARKS[each.state], each.found] for each in findings
    ]))  # fmt: skip
    for each in findings:
        if each.state != "ok":
            results.print(f"{each.name}: {each.mend}")
    return 2 if broken else 0
