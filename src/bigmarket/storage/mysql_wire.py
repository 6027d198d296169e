"""What the hot transactions say to MySQL: several statements in one packet, and what each came to.

Drivers read an answer packet by packet and make objects of each; a small batch of draws paid more for that than for
its rules. PyMySQL still connects, logs in and sends. Of its answers only those are read here that hot statements get,
and they are of three kinds: so many rows changed, one value, an error.
https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response.html
"""

from __future__ import annotations

import io
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from pymysql import err  # type: ignore[import-untyped]
from pymysql.connections import Connection  # type: ignore[import-untyped]
from pymysql.constants import COMMAND, CR, SERVER_STATUS  # type: ignore[import-untyped]

_OK, _NULL, _ERROR = 0x00, 0xFB, 0xFF
_NUMBER_BYTES = {0xFC: 2, 0xFD: 3, 0xFE: 8}  # of one that does not fit into its first
_HEAD_BYTES = 4  # before a packet: three of its length, one of its number
_PACKET_BYTES_MAX = 0xFFFFFF  # one of that length goes on in the next
_STATUS = 3  # where a packet that ends the rows has its status flags
_MORE: int = SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
_READ_BYTES = 1 << 16


class Wire(Protocol):
    """A connection to MySQL, as hot transactions use it. So many statements of the last run were ``answered``."""

    answered: int

    def run(self, statements: Sequence[bytes]) -> list[Any]:
        """For each statement, in order, how many rows it changed or found, or the one value of a SELECT.

        Raises the driver's error of the first that fails; those behind it do not run.
        """
        ...


class DriverWire:
    """Any driver's."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.answered = 0

    def run(self, statements: Sequence[bytes]) -> list[Any]:
        """As ``Wire.run``."""
        self.answered = 0
        cursor = self._connection.cursor()
        cursor.execute(b";".join(statements))
        came = []
        for number in range(len(statements)):
            if number:
                cursor.nextset()
            came.append(cursor.fetchone()[0] if cursor.description else cursor.rowcount)
            self.answered += 1
        cursor.close()
        return came


class WiredConnection(Connection):  # type: ignore[misc]
    """PyMySQL's connection, and its wire. Neither to send nor to read takes longer than ``read_timeout`` seconds."""

    def __init__(self, *, read_timeout: int, **settings: Any) -> None:
        super().__init__(**settings | {"read_timeout": read_timeout, "write_timeout": read_timeout})
        self.answered = 0
        self._came = b""  # answers
        self._at = 0  # so far they were looked at
        if not isinstance(self._sock, ssl.SSLSocket):  # TLS goes on reading when the kernel has given up
            self._let_kernel_wait(read_timeout)

    def run(self, statements: Sequence[bytes]) -> list[Any]:
        """As ``Wire.run``; a connection whose answers broke off is closed."""
        self.answered = 0
        self._execute_command(COMMAND.COM_QUERY, b";".join(statements))
        self._came, self._at = b"", 0
        came = []
        try:
            more = True
            while more:
                answer, more = self._answer()
                came.append(answer)
                self.answered += 1
        except err.MySQLError:  # that is an answer, too
            raise
        except BaseException:
            self._force_close()
            raise
        return came

    def _answer(self) -> tuple[int | bytes | None, bool]:
        """What the next statement came to, and whether there are others."""
        packet = self._packet()
        if packet[0] == _OK:
            changed, at = _number(packet, 1)
            _, at = _number(packet, at)  # the last id that the server made
            return changed, bool(packet[at] & _MORE)
        self._packet()  # the only column
        self._packet()  # the end of the columns
        row = self._packet()
        value = None if row[0] == _NULL else row[_number(row, 0)[1] :]
        end = self._packet()
        return value, bool(end[_STATUS] & _MORE)

    def _packet(self) -> bytes:
        """The next packet. Raises the error that it tells of."""
        begins = self._at + _HEAD_BYTES
        self._wait_for(begins)
        size = int.from_bytes(self._came[self._at : begins - 1], "little")
        assert size < _PACKET_BYTES_MAX, "rows of hot statements are few and short"
        self._at = begins + size
        self._wait_for(self._at)
        packet = self._came[begins : self._at]
        if packet[0] == _ERROR:
            err.raise_mysql_exception(packet)
        return packet

    def _wait_for(self, size: int) -> None:
        """Read on until so many bytes are there. Raises when the connection is lost, or too slow."""
        while len(self._came) < size:
            try:
                some = self._sock.recv(_READ_BYTES)
            except OSError as error:
                raise self._lost(error) from error
            if not some:
                raise self._lost("closed by the server")
            self._came += some

    def _let_kernel_wait(self, seconds: int) -> None:
        """Block, with the kernel's time-out: Python's takes two system calls, and two turns with the interpreter."""
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", seconds, 0))
        self._sock.settimeout(None)
        self._read_timeout = self._write_timeout = self._current_timeout = None
        self._rfile = io.BufferedReader(_Answers(self._sock), _READ_BYTES)

    def _lost(self, why: object) -> Exception:
        self._force_close()
        lost: Exception = err.OperationalError(CR.CR_SERVER_LOST, f"Lost connection to MySQL server ({why})")
        return lost


def wire_of(connection: Any) -> Wire:
    """The wire of a driver's connection."""
    return connection if isinstance(connection, WiredConnection) else DriverWire(connection)


class _Answers(io.RawIOBase):
    """What PyMySQL itself reads from: the file that Python makes of a socket takes a time-out for an end."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some bytes. Raises BlockingIOError after the time-out."""
        return self._source.recv_into(buffer)


def _number(packet: bytes, at: int) -> tuple[int, int]:
    """The number there, and where it ends."""
    first = packet[at]
    if first < _NULL:
        return first, at + 1
    ends = at + 1 + _NUMBER_BYTES[first]
    return int.from_bytes(packet[at + 1 : ends], "little"), ends
