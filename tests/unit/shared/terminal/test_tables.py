"""Tables whose rows come one at a time."""

from __future__ import annotations

import pytest

from shared.terminal.tables import RowByRow


def test_rows_that_come_one_at_a_time_have_one_header(capsys: pytest.CaptureFixture[str]) -> None:
    rows = RowByRow(("number", "new_digest", "reason"))
    rows.print({"number": 1, "reason": "a\nb"})
    rows.print({"number": 2, "new_digest": "sha256:0123"})
    assert capsys.readouterr().out.splitlines() == [
        "number  new digest  reason",
        "1                   a\\nb",
        "2       sha256:0123",
    ]
