"""When the driver of MySQL prepares TLS."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from bigmarket.storage.mysql import tls_of

NONE: dict[str, bool] = {"ssl_disabled": True}
DRIVERS_CHOICE: dict[str, bool] = {}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("mysql+pymysql://u:p@127.0.0.1/x", NONE),
        ("mysql+pymysql://u:p@localhost/x?unix_socket=/run/mysqld/mysqld.sock", NONE),
        ("mysql+pymysql://u:p@[::1]:3307/x", NONE),
        ("mysql+pymysql://u:p@db1/x", DRIVERS_CHOICE),
        ("mysql+pymysql://u:p@10.0.0.1/x", DRIVERS_CHOICE),
        ("mysql+pymysql://u:p@127.0.0.1/x?ssl_ca=/etc/ssl/db.pem", DRIVERS_CHOICE),
        ("mysql+mysqldb://u:p@127.0.0.1/x", DRIVERS_CHOICE),
    ],
)
def test_tls_is_left_out_within_this_machine_only(url: str, told: dict[str, bool]) -> None:
    assert tls_of(make_url(url)) == told
