"""Text files of people's: byte order marks and line ends go, what is no UTF-8 text is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.terminal import text_files
from shared.terminal.text_files import UnreadableText, read_text, read_word


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "given.txt"


@pytest.mark.parametrize("content", [b"a\nb\n", b"a\r\nb\r\n", b"\xef\xbb\xbfa\nb\n", b"a\rb\r"])
def test_marks_and_line_ends_do_not_matter(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert read_text(file) == "a\nb\n"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused(file: Path, encoding: str) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    file.write_bytes(mark + "hyperfl-x".encode(encoding))
    name = encoding[:6].upper()
    with pytest.raises(UnreadableText, match=rf"^{file} is {name}: save it as UTF-8$"):
        read_text(file)


def test_what_is_no_text_is_named(file: Path, tmp_path: Path) -> None:
    for content, words in (
        (b"a\0b", "is not text in UTF-8: it has zero bytes"),
        (b"abc\xff", "is not UTF-8 at byte 3"),
    ):
        file.write_bytes(content)
        with pytest.raises(UnreadableText, match=f"^{file} {words}$"):
            read_text(file)
    with pytest.raises(UnreadableText, match=f"^{tmp_path} cannot be read: Is a directory$"):
        read_text(tmp_path)
    with pytest.raises(
        UnreadableText, match=r"none\.txt cannot be read: No such file or directory"
    ):
        read_text(tmp_path / "none.txt")


def test_a_file_without_end_is_not_read_to_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 4)
    file.write_bytes(b"abcd")
    assert read_text(file) == "abcd"
    file.write_bytes(b"abcde")
    with pytest.raises(UnreadableText, match="is longer than 4 bytes"):
        read_text(file)


def test_a_word_stands_alone(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfhyperfl-enrolment-x\r\n")
    assert read_word(file, "an enrolment token") == "hyperfl-enrolment-x"
    for content, count in (("", 0), ("two words", 2)):
        file.write_text(content)
        words = f"must have an enrolment token and nothing else, not {count} words"
        with pytest.raises(UnreadableText, match=words):
            read_word(file, "an enrolment token")
