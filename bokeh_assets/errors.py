"""The one error a user is meant to read."""

from __future__ import annotations

import unicodedata

# Marks that change the direction of what follows: a name that holds them shows as another name.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


def one_line(text: str) -> str:
    """`text` as one line that any terminal, log and database can take.

    File names may hold line ends, terminal commands, marks that turn the direction of writing, and bytes that are no
    UTF-8 (lone surrogates in Python). Each becomes its escape, such as `\\n`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNPRINTABLE or c in _TURNING else c
        for c in text
    )


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line (see `one_line`) that names the thing (file, option, frame) and the remedy. The command
    line prints it as it is; assets turn it into a Dagster failure that is not retried.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))
