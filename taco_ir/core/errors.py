"""The error that stands for a user's mistake. What raises it may need no files, so it is here alone."""

from __future__ import annotations

import re

QUOTED_UP_TO = 200  # characters of a quoted value in a message
QUOTED = re.compile(rf"(?<!\w)(['\"])((?:(?!\1)[^\\]|\\.){{{QUOTED_UP_TO + 1},}})\1(?!\w)")


class InputError(ValueError):
    """A user's mistake: a one-line message that names the input, its value and what is allowed."""

    def __init__(self, message: object) -> None:
        text = printable(str(message))
        super().__init__(QUOTED.sub(lambda found: f"{found[1]}{found[2][:QUOTED_UP_TO]}...{found[1]}", text))


def printable(text: str) -> str:
    """`text` with control characters, line ends and undecodable bytes escaped, so that it cannot act on a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
