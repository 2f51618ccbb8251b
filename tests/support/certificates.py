"""Certificates of an authority of the test's own, made with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder."""

    folder: Path

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def certify(self, address: str) -> tuple[Path, Path]:
        """A certificate for an IP address, and its key."""
        certificate, key = self.folder / f"{address}.pem", self.folder / f"{address}.key"
        _openssl(
            *("req", "-x509", *_KEY, "-subj", "/CN=coordinator"),
            *("-CA", self.ca_file, "-CAkey", self.folder / "ca.key"),
            *("-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=CA:FALSE"),
            *("-keyout", key, "-out", certificate),
        )
        return certificate, key


def new_authority(folder: Path) -> Authority:
    """An authority that nobody else trusts."""
    folder.mkdir()
    authority = Authority(folder)
    _openssl(
        *("req", "-x509", *_KEY, "-subj", f"/CN={folder.name}"),
        *("-addext", "keyUsage=critical,keyCertSign"),
        *("-keyout", folder / "ca.key", "-out", authority.ca_file),
    )
    return authority


def _openssl(*arguments: object) -> None:
    command = ["openssl", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
