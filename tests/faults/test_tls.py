"""A database that is reached by TLS and stops answering is not waited for."""

from __future__ import annotations

import ssl
from pathlib import Path
from time import monotonic

import pymysql
import pytest

from bigmarket.storage.mysql_wire import WiredConnection
from certificates import self_signed
from faults.services import MariaDbProcess

pytestmark = pytest.mark.faults

ANSWER_SECONDS = 1


def test_answers_by_tls_are_read_and_not_waited_for_too_long(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "localhost")
    options = (f"--ssl-cert={certificate}", f"--ssl-key={key}")
    with MariaDbProcess(tmp_path / "mariadb", buffer_pool_mib=32, options=options) as server:
        wired = WiredConnection(
            host="127.0.0.1", port=server.port, user="root", ssl_ca=str(certificate), read_timeout=ANSWER_SECONDS
        )
        assert isinstance(wired._sock, ssl.SSLSocket)
        assert wired.run([b"SELECT REPEAT('long', 50000)"]) == [b"long" * 50_000]
        began = monotonic()
        with pytest.raises(pymysql.err.OperationalError, match="Lost connection"):
            wired.run([b"SELECT SLEEP(20)"])
        assert ANSWER_SECONDS * 0.9 < monotonic() - began < 15
        assert not wired.open
