"""A network between a client and a server that a test can cut, silence, or wrap in TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress


class Proxy:
    """Listens on ``port`` of loopback (0: any) and passes bytes to and from ``target`` until told otherwise."""

    def __init__(self, target: tuple[str, int], *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._target = target
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._heard = threading.Event()
        self._heard.set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        for each in self._sockets[:]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()

    def silence(self) -> None:
        """Let nothing through from the server any more."""
        self._heard.clear()

    def restore(self) -> None:
        """Let the server be heard again."""
        self._heard.set()

    def close(self) -> None:
        """Break everything and listen no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._heard.set()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with suppress(OSError):
                if self._tls is not None:
                    client = self._tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(65_536):
                if from_server:
                    self._heard.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
