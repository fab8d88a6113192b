"""What every server of ours needs: its socket, its checks, its guard, its command line."""

import argparse
import socket

import uvicorn
from fastapi import FastAPI

from app.web.guard import Guard
from configs.schema import ConfigError, ServeConfig, WebConfig

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PING_S = 5.0

Address = WebConfig | ServeConfig


def chosen(options: argparse.Namespace, section: str) -> list[str]:
    """What the command line says of the address, as settings of the section."""
    values = (("host", options.host), ("port", options.port), ("max_sessions", options.max_sessions))
    return [f"{section}.{key}={value}" for key, value in values if value is not None]


def check(address: Address, options: argparse.Namespace) -> None:
    """Say at once what would fail later. Raises ConfigError."""
    if options.auth and not all(options.auth.partition(":")[::2]):
        raise ConfigError("--auth takes USER:PASSWORD, both not empty.")
    if bool(options.ssl_certfile) != bool(options.ssl_keyfile):
        raise ConfigError("--ssl-certfile and --ssl-keyfile belong together: give both.")
    for path in (options.ssl_certfile, options.ssl_keyfile):
        if path and not path.is_file():
            raise ConfigError(f"{path}: there is no such file.")
    if not 0 <= address.port <= 65535:
        raise ConfigError(f"the port is {address.port}; choose one between 1 and 65535.")
    if address.max_sessions < 1:
        raise ConfigError("max_sessions must be at least 1.")


def listen(address: Address) -> socket.socket:
    """The socket to serve at. Raises OSError, in one line, when the address cannot be used."""
    host, port = address.host, address.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{host} port {port} cannot be used ({reason}); choose another one with --port.") from None


def location(address: Address, listening: socket.socket) -> str:
    """HOST:PORT for programs on this machine."""
    host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
    return f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def guard(app: FastAPI, address: Address, auth: str | None, *, free: tuple[str, ...] = ()) -> None:
    """Let only those in who may. A server for this machine alone answers to no other name: no site can pose as it.

    `free`: paths that ask for no password.
    """
    app.add_middleware(Guard, auth=auth, hosts=LOOPBACK if address.host in LOOPBACK else (), free=free)


def server(
    app: FastAPI, options: argparse.Namespace | None = None, *, max_message_bytes: int, patience_s: float = _PING_S
) -> uvicorn.Server:
    """The server of the application, not yet running. `patience_s`: with the other end of a WebSocket that is silent."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=options.ssl_certfile if options else None,
            ssl_keyfile=options.ssl_keyfile if options else None,
            log_level="error",
            ws_max_size=max_message_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=patience_s,
            timeout_graceful_shutdown=2,
        )
    )
