"""An S3 server on loopback that keeps S3's promise: of writers that meet, with If-None-Match, one wins."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

__all__ = ["s3_server"]


@contextlib.contextmanager
def s3_server(host: str = "127.0.0.1") -> Iterator[str]:
    """The address of moto's S3, in threads of this process.

    moto looks whether an object is there and puts it later, so that two of its threads may both find none: of requests
    with the condition it is given one at a time.
    """
    moto = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    def application(environment: dict[str, Any], answer: Callable[..., Any]) -> Iterable[bytes]:
        with turn if "HTTP_IF_NONE_MATCH" in environment else contextlib.nullcontext():
            return moto(environment, answer)

    server = make_server(host, 0, application, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://{host}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
