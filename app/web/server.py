"""`launch.py web`: the page, its WebSocket and its files on one port."""

import argparse
import asyncio
import socket
import sys

import uvicorn
from fastapi import FastAPI

from app.assemble import Assistant, prepare_process
from app.cli import configuration
from app.web.application import LOOPBACK, create
from app.web.protocol import MAX_MESSAGE_BYTES
from configs.schema import AppConfig, ConfigError

_PING_S = 5.0


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl+C."""
    extra = [
        f"web.{key}={value}"
        for key, value in (("host", options.host), ("port", options.port), ("max_sessions", options.max_sessions))
        if value is not None
    ]
    config = configuration(options, extra)
    check(config, options)
    with listen(config) as listening:
        prepare_process(config)
        asyncio.run(_serve(config, options, listening))
    return 0


def listen(config: AppConfig) -> socket.socket:
    """The socket to serve at. Raises OSError, in one line, when the address cannot be used."""
    host, port = config.web.host, config.web.port
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{host} port {port} cannot be used ({reason}); choose another one with --port.") from None


def check(config: AppConfig, options: argparse.Namespace) -> None:
    """Say at once what would fail later. Raises ConfigError."""
    if options.auth and not all(options.auth.partition(":")[::2]):
        raise ConfigError("--auth takes USER:PASSWORD, both not empty.")
    if bool(options.ssl_certfile) != bool(options.ssl_keyfile):
        raise ConfigError("--ssl-certfile and --ssl-keyfile belong together: give both.")
    for path in (options.ssl_certfile, options.ssl_keyfile):
        if path and not path.is_file():
            raise ConfigError(f"{path}: there is no such file.")
    if not 0 <= config.web.port <= 65535:
        raise ConfigError(f"web.port is {config.web.port}; choose one between 1 and 65535.")
    if config.web.max_sessions < 1:
        raise ConfigError("web.max_sessions must be at least 1.")


def warnings(config: AppConfig, *, secure: bool, auth: bool) -> list[str]:
    """What it means to listen beyond this machine, one line each."""
    if config.web.host in LOOPBACK:
        return []
    lines = [f"Everybody who reaches {config.web.host}:{config.web.port} can use this page and see the named voices."]
    if not auth:
        lines.append("Ask for a password with --auth USER:PASSWORD.")
    if not secure:
        lines.append(
            "Browsers give a microphone only to pages over HTTPS or from localhost: on other machines only typing works. "
            "Give --ssl-certfile and --ssl-keyfile."
        )
    return lines


def server(app: FastAPI, options: argparse.Namespace | None = None) -> uvicorn.Server:
    """The server of the application, not yet running."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ssl_certfile=options.ssl_certfile if options else None,
            ssl_keyfile=options.ssl_keyfile if options else None,
            log_level="error",
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PING_S,
            timeout_graceful_shutdown=2,
        )
    )


async def _serve(config: AppConfig, options: argparse.Namespace, listening: socket.socket) -> None:
    def report(text: str) -> None:
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\033[K{text}")
            sys.stdout.flush()

    assistant = await Assistant.load(config, report)
    try:
        report("making the page")
        running = server(create(assistant, auth=options.auth), options)
        report("")
        secure = options.ssl_certfile is not None
        for line in warnings(config, secure=secure, auth=bool(options.auth)):
            sys.stdout.write(f"{line}\n")
        host = "127.0.0.1" if config.web.host in ("0.0.0.0", "::") else config.web.host
        sys.stdout.write(
            f"Open http{'s' if secure else ''}://{host}:{listening.getsockname()[1]} in a browser. Ctrl+C ends.\n"
        )
        sys.stdout.flush()
        await running.serve([listening])
    finally:
        assistant.close()
