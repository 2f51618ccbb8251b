"""Text files that a person gives: the one way in which commands read them."""

from __future__ import annotations

import codecs
from pathlib import Path

from shared.validation import InvalidInput

MAX_TEXT_BYTES = 64 << 20
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""By their first bytes; those of UTF-32 begin as those of UTF-16 do."""


class UnreadableText(InvalidInput):
    """A file is no text that can be used: one line naming it."""


def read_text(file: Path) -> str:
    """What a file says, in UTF-8, with or without a byte order mark; line ends become newlines.

    Raises:
        UnreadableText: it is missing, a folder, not permitted, too long, binary, or in another
            encoding, which is named where it can be told.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise UnreadableText(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_TEXT_BYTES:
        raise UnreadableText(f"{file} is longer than {MAX_TEXT_BYTES} bytes")
    for mark, encoding in _OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise UnreadableText(f"{file} is {encoding}: save it as UTF-8")
    if b"\0" in content:
        raise UnreadableText(f"{file} is not text in UTF-8: it has zero bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableText(f"{file} is not UTF-8 at byte {error.start}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_word(file: Path, what: str) -> str:
    """The one word of a file, such as a token; a line end after it is no part of it.

    Raises:
        UnreadableText: as :func:`read_text`, or there is no word, or more than one.
    """
    words = read_text(file).split()
    if len(words) != 1:
        raise UnreadableText(f"{file} must have {what} and nothing else, not {len(words)} words")
    return words[0]
