"""Column types and table options that the schema and its migrations share, on every engine.

MySQL compares by the collation of a column, so each is a binary one, as SQLite's are: two user ids are the same only
when they are the same characters. Ids of our own making are ASCII there, which keeps index entries short.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import LargeBinary, String, Text
from sqlalchemy.dialects.mysql import LONGTEXT, TINYBLOB, VARCHAR
from sqlalchemy.types import TypeEngine


def ascii_text(length: int) -> TypeEngine[str]:
    """A short text of ASCII characters only."""
    return String(length).with_variant(VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql")


USER = String(128)
KEY = String(32)
NUMBER = String(128)  # a business number that comes from outside
ULID = ascii_text(26)
STATE = ascii_text(16)
MONTH, DAY = ascii_text(7), ascii_text(10)
# What MySQL makes of the lengths, by name, as it reports them; its plain TEXT ends at 64 KiB.
DOCUMENT = Text(16_777_215).with_variant(LONGTEXT(), "mysql")
SEED = LargeBinary(32).with_variant(TINYBLOB(), "mysql")

#: Stored by the primary key: InnoDB always is, SQLite when the table has no rowid.
CLUSTERED: dict[str, Any] = {
    "sqlite_with_rowid": False,
    "mysql_engine": "InnoDB",
    "mysql_default_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
