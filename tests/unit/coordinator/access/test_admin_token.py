"""The administrator's first token, as far as no database is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from coordinator.access.admin_token import ensure_admin_token

NO_DATABASE: Any = None


@pytest.mark.parametrize("content", ["", "\n", "admin", "x" * 31])
async def test_an_admin_token_file_with_a_short_token_is_refused(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "admin-token"
    file.write_text(content)
    with pytest.raises(ValueError, match="admin-token must hold a token of at least 32 characters"):
        await ensure_admin_token(NO_DATABASE, file, datetime(2026, 1, 1, tzinfo=UTC))
    assert file.read_text() == content
