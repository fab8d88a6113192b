"""`launch.py serve`: OpenAI's Realtime API, speech and transcriptions, from the moment the address is free."""

import argparse
import asyncio
import logging
import socket
import sys

from app.assemble import Assistant, prepare_process
from app.configuration import configuration
from app.serve.application import create
from app.serve.wire import MAX_EVENT_BYTES
from app.web import hosting
from configs.schema import AppConfig

_PATIENCE_S = 60.0  # clients that wait for their loudspeaker read nothing, and then answer no pings


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl+C."""
    config = configuration(options, hosting.chosen(options, "serve"))
    hosting.check(config.serve, options)
    with hosting.listen(config.serve) as listening:
        prepare_process(config)
        asyncio.run(_serve(config, options, listening))
    return 0


def warnings(config: AppConfig, *, secure: bool, auth: bool) -> list[str]:
    """What it means to listen beyond this machine, one line each."""
    if config.serve.host in hosting.LOOPBACK:
        return []
    lines = [f"Every program that reaches {config.serve.host}:{config.serve.port} can use these models and voices."]
    if not auth:
        lines.append("Ask for a key with --auth USER:PASSWORD.")
    if not secure:
        lines.append("What is said, and the key, can be read on the way. Give --ssl-certfile and --ssl-keyfile.")
    return lines


async def _serve(config: AppConfig, options: argparse.Namespace, listening: socket.socket) -> None:
    """It answers at once, so that others can see that it is loading; it ends when loading fails."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # what is wrong with a request is told to its sender
    app = create(config, auth=options.auth)
    running = hosting.server(app, options, max_message_bytes=2 * MAX_EVENT_BYTES, patience_s=_PATIENCE_S)
    secure = options.ssl_certfile is not None
    for line in warnings(config, secure=secure, auth=bool(options.auth)):
        _say(line)
    address = f"{'s' if secure else ''}://{hosting.location(config.serve, listening)}"
    serving = asyncio.create_task(running.serve([listening]))
    assistant, sessions = None, config.serve.max_sessions
    try:
        _say(f"Loading the models; http{address}/health tells when they are there.")
        assistant = await asyncio.to_thread(Assistant.build, config, lambda _: None, sessions)
        await assistant.warm_up()
        app.state.service.open(assistant)
        if not running.should_exit:
            _say(f"Ready: http{address}/v1 and ws{address}/v1/realtime. Ctrl+C ends.")
        await serving
    finally:
        running.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        if assistant:
            assistant.close()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
