"""A folder that TensorBoard reads: curves over rounds, the parameters and digests as text."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from tensorboardX import SummaryWriter

from coordinator.tracking.interface import Record
from coordinator.tracking.records import facts, parameters, scalars


class Events:
    """One run; a round's number is the step, and its end the time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, federation: Record) -> None:
        """Makes the folder."""
        self._writer = SummaryWriter(logdir=str(self._folder), write_to_disk=True)
        self._write_text("parameters", parameters(federation))

    def add(self, round_: Record) -> None:
        """Draws one closed round."""
        at = datetime.fromisoformat(round_["closed_at"]).timestamp()
        number = round_["number"]
        for name, value in scalars(round_).items():
            tag = name if "/" in name else f"rounds/{name}"
            self._writer.add_scalar(tag, value, number, walltime=at)
        said = {"kind": round_["kind"], "phase": round_["phase"], "reason": round_["reason"]}
        self._write_text("round", said | {"new_digest": round_["new_digest"]}, number)

    def flush(self) -> None:
        """Writes what is still kept in memory."""
        self._writer.flush()

    def end(self, federation: Record) -> None:
        """Says how the federation stands, and closes the file."""
        self._write_text("federation", facts(federation))
        self._writer.close()

    def discard(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write_text(self, tag: str, values: Record, step: int = 0) -> None:
        rows = [f"| {name} | {_cell(value)} |" for name, value in values.items()]
        table = "\n".join(["| name | value |", "|---|---|", *rows])
        self._writer.add_text(tag, table, step)


def _cell(value: object) -> str:
    """Text in a table of Markdown, in which it is neither a cell's end nor markup."""
    text = "" if value is None else str(value)
    return "".join(f"\\{one}" if one in "\\|`*_{}[]<>#" else one for one in text)
