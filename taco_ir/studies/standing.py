"""Records that were there before a work folder had scores of its own: do both agree?"""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.core.progress import log
from taco_ir.studies.check import deviations
from taco_ir.studies.records import Result

FEW = 4  # scores of a record that are told one by one


def compared(recorded: Result, found: Result, tolerance: float) -> int:
    """How many scores are not as recorded, as a check of the leaderboard counts them; they are told as warnings."""
    lines = deviations(recorded, found, tolerance)
    if not lines:
        log.info("%s: as recorded", recorded.name)
    for line in lines if len(lines) <= FEW else [f"{recorded.name}: {len(lines)} scores moved; most: {_most(recorded, found) or lines[0]}"]:
        log.warning("%s", line)
    before, now = (result.made.get("models", {}) for result in (recorded, found))
    if others := [name for name in before if lines and now.get(name) != before[name]]:
        log.warning("%s: recorded with other weights of %s", recorded.name, ", ".join(others))
    return len(lines)


def _most(recorded: Result, found: Result) -> str:
    """The mean that moved most, of those that both have; "" without one."""
    both = [
        (abs(after.means[measure] - mean), f"{topics}, {measure}: recorded {mean:.6f}, found {after.means[measure]:.6f}")
        for topics, before in recorded.topics.items()
        if (after := found.topics.get(topics))
        for measure, mean in before.means.items()
        if measure in after.means
    ]
    return max(both, default=(0, ""))[1]


def standing_line(moved: Sequence[int]) -> str:
    """What became of records that were there, in words.

    Args:
        moved: of each record, how many scores.
    """
    same = moved.count(0)
    return (
        f"of {len(moved)} records that this work folder did not make, {same} came out as recorded and {len(moved) - same} moved; "
        "they stay as they are: remove one to have the scores of this work folder recorded, and its folder there too to train anew"
    )
