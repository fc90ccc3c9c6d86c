r"""Names on one line, as commands print them, and back.

A file's name may hold line ends, escape sequences and bytes that are no UTF-8. Printed as they are,
they would break lines and do things to a terminal.
"""

import re

_SHORT = {"n": "\n", "r": "\r", "t": "\t"}
_ESCAPE = re.compile(
    r"\\(?:([nrt])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(000[0-9a-f]{5}|0010[0-9a-f]{4}))"
)


def printable(text: str) -> str:
    r"""A text on one line: what cannot be printed is escaped as in Python.

    Args:
        text: str.

    Returns:
        str. A backslash stays one, as paths have them on Windows.

    Example:
        >>> print(printable("Zoë\n\udce9.jpg"))
        Zoë\n\udce9.jpg
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def unescaped(text: str) -> str:
    r"""What `printable` was given, unless there were backslashes in it.

    Args:
        text: str, as `printable` or a terminal without some characters has shown it.

    Returns:
        str.

    Example:
        >>> unescaped(printable("Zoë\n\udce9.jpg")) == "Zoë\n\udce9.jpg"
        True
        >>> unescaped(r"cats\dogs")
        'cats\\dogs'
    """

    def char(escape: re.Match[str]) -> str:
        short = escape[1]
        return _SHORT[short] if short else chr(int(escape[2] or escape[3] or escape[4], 16))

    return _ESCAPE.sub(char, text)
