"""The server: one socket on this machine, one token."""

import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graftwork.errors import InputError
from graftwork.serve._shelf import Shelf

if TYPE_CHECKING:
    from graftwork.serve._draw import OpenData

_MOST_CONNECTIONS = 128


def serve(
    places: Sequence[Path],
    *,
    port: int,
    announce: Callable[[str], None],
    open_data: "OpenData | None" = None,
) -> None:
    """Serve a live page on this machine until Ctrl-C.

    Args:
        places: Run folders, and folders that hold run folders.
        port: Port on 127.0.0.1; 0: any free one.
        announce: Is told the address, which holds the token that opens the page.
        open_data: Gives images, and names of files, of the data that a run names, which may come from somebody else;
            None leaves pictures out.

    Raises:
        InputError: If a package is missing, a folder is none, or the port is taken.
    """
    try:
        import uvicorn

        from graftwork.serve._app import make_app
    except ImportError as error:
        raise InputError(
            f"serve: expected the package {error.name}, found none; pip install 'graftwork[serve]'"
        ) from error
    token = secrets.token_urlsafe(32)
    app = make_app(Shelf(places), token=token, open_data=open_data)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,  # else it closes all handlers of logging that the program has, some of which own stderr
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    with _listening(port) as listening, suppress(KeyboardInterrupt):
        announce(f"http://127.0.0.1:{listening.getsockname()[1]}/?token={token}")
        uvicorn.Server(config).run(sockets=[listening])


def _listening(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen()  # who is told the address may be faster than the server
    except (OSError, OverflowError) as error:
        listening.close()
        text = getattr(error, "strerror", None) or error
        raise InputError(
            f"port {port}: expected a free one, got {text}; name another by --port, or 0 for any"
        ) from error
    return listening
