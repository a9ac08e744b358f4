"""What a training leaves that is worth keeping longer than its folder: how well it ranked held-out queries as it went, and its size."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError, read_json

SIZE_FILE = "parameters.json"
NUMBER = re.compile(r"\d+")


def curve(training: Path) -> list[tuple[int, float]]:
    """(step, macro page R-precision) of each validation of the last training under a folder; nothing where there is none."""
    log = _last(training, "log.jsonl")
    found = []
    for line in log.read_text(encoding="utf-8").splitlines() if log else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break  # a line that is being written is the last
        if "macro" in record.get("validation", ()):
            found.append((int(record["step"]), float(record["validation"]["macro"])))
    return found


def held_out(training: Path) -> float | None:
    """The best of a curve after its first step; None where nothing was validated then: what a training began with is not its doing."""
    return max((macro for step, macro in curve(training) if step), default=None)


def sizes(training: Path) -> dict[str, int]:
    """Parameters trained, and those of the whole encoder, in the last training under a folder; nothing where there is none."""
    file = _last(training, SIZE_FILE)
    found: dict[str, int] = read_json(file) if file else {}
    return found


def _last(training: Path, name: str) -> Path | None:
    """The file of the last training under a folder, whose episodes are counted: episode-10 is after episode-2."""
    return max(training.glob(f"**/{name}"), key=lambda path: [NUMBER.sub(_padded, part) for part in path.parts], default=None)


def _padded(number: re.Match[str]) -> str:
    return number[0].zfill(9)


def kept(training: Path) -> dict[str, Any]:
    """Both, as a record of results keeps them."""
    found = {"curve": curve(training), "parameters": sizes(training)}
    return {name: value for name, value in found.items() if value}


def best_first(tried: dict[str, Path]) -> dict[str, float]:
    """What was tried, by name, with its held-out score, the best first. Raises: InputError for a training that was not validated."""
    scores = {name: held_out(training) for name, training in tried.items()}
    if blind := [name for name, score in scores.items() if score is None]:
        raise InputError(f"{tried[blind[0]]}: no validation in it; what is to be chosen among must be validated on held-out queries")
    known = {name: score for name, score in scores.items() if score is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]))
