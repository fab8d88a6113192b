"""`launch.py web`: the page, its WebSocket and its files on one port."""

import argparse
import asyncio
import socket
import sys

from app.assemble import Assistant, prepare_process
from app.configuration import configuration
from app.web import hosting
from app.web.application import create
from app.web.protocol import MAX_MESSAGE_BYTES
from asr import limits
from configs.schema import AppConfig


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl+C."""
    config = configuration(options, hosting.chosen(options, "web"))
    hosting.check(config.web, options)
    with hosting.listen(config.web) as listening:
        prepare_process(config)
        asyncio.run(_serve(config, options, listening))
    return 0


def warnings(config: AppConfig, *, secure: bool, auth: bool) -> list[str]:
    """What it means to listen beyond this machine, one line each."""
    if config.web.host in hosting.LOOPBACK:
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


async def _serve(config: AppConfig, options: argparse.Namespace, listening: socket.socket) -> None:
    def report(text: str) -> None:
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\033[K{text}")
            sys.stdout.flush()

    assistant = await Assistant.load(config, report, config.web.max_sessions)
    try:
        report("making the page")
        running = hosting.server(create(assistant, auth=options.auth), options, max_message_bytes=MAX_MESSAGE_BYTES)
        report("")
        secure = options.ssl_certfile is not None
        for line in warnings(config, secure=secure, auth=bool(options.auth)):
            sys.stdout.write(f"{line}\n")
        address = hosting.location(config.web, listening)
        sys.stdout.write(f"Open http{'s' if secure else ''}://{address} in a browser. Ctrl+C ends.\n")
        if weak := limits(config.asr):
            sys.stdout.write(f"{weak}\n")
        sys.stdout.flush()
        await running.serve([listening])
    finally:
        assistant.close()
