"""A way to the coordinator that cannot be used is the configuration's fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import ConfigError
from worker.remote.connection import Connection, CoordinatorAddress


def test_a_proxy_or_certificate_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = CoordinatorAddress(
        "https://federation.example.org",
        request_timeout_seconds=1.0,
        transfer_seconds=1.0,
        ca_file=tmp_path / "ca.pem",
    )
    with pytest.raises(ConfigError, match=r"^ca_file .*ca.pem cannot be read: .+$"):
        Connection(address, None)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^the proxy that HTTPS_PROXY names cannot be used"):
        Connection(address, None)
