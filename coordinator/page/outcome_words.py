"""What became of a client's work in a round: a sign, which needs no colour, and words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from coordinator.rules.outcomes import Outcome


class OutcomeWords(NamedTuple):
    """How an outcome is shown."""

    sign: str
    words: str


OUTCOMES: Mapping[Outcome, OutcomeWords] = {
    Outcome.RECORDED: OutcomeWords("●", "recorded"),
    Outcome.WORKING: OutcomeWords("▸", "at work"),
    Outcome.AWAITED: OutcomeWords("○", "awaited"),
    Outcome.LATE: OutcomeWords("◔", "late: its lease or the round ended before its update"),
    Outcome.DECLINED: OutcomeWords("✕", "declined, failed or refused"),
    Outcome.SILENT: OutcomeWords("–", "never asked for its work"),
}
NOT_DRAWN = OutcomeWords("", "not drawn")
