"""Defines InputError, which is raised for a user's mistake. This file is separate because it imports nothing."""

from __future__ import annotations

import errno
import re

# errors of a full or read-only disk, missing permission, or an impossible path
USERS_OSERRORS = (
    "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM ENOTEMPTY EBUSY ENOTDIR EEXIST EISDIR ENAMETOOLONG ELOOP EMFILE ENFILE"
)
QUOTED_UP_TO = 200  # characters of a quoted value in a message
QUOTED = re.compile(rf"(?<!\w)(['\"])((?:(?!\1)[^\\]|\\.){{{QUOTED_UP_TO + 1},}})\1(?!\w)")


class InputError(ValueError):
    """Raised for a user's mistake. Its message is one line that names the input, its value and what is allowed."""

    def __init__(self, message: object) -> None:
        text = printable(str(message))
        super().__init__(QUOTED.sub(lambda found: f"{found[1]}{found[2][:QUOTED_UP_TO]}...{found[1]}", text))


def is_users(error: OSError) -> bool:
    """Return whether an error is caused by the user's disk or path (such as a full disk), and not by a bug."""
    return errno.errorcode.get(error.errno or 0) in USERS_OSERRORS.split()


def printable(text: str) -> str:
    """Escape control characters, line ends and undecodable bytes in `text`, so that it is safe to print."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
