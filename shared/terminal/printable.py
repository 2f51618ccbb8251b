"""Text of others as it may be printed: it moves no cursor, hides nothing and breaks no line."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with every control, format or unassigned character written as Python escapes it.

    Among these are escape sequences, line breaks, and what turns the direction of text around.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def printable_lines(text: str) -> str:
    """The same for text of our own that has lines, such as a traceback."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
