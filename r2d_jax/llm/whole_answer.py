"""A time limit for whole answers; in: the class of an HTTP client and seconds, out: a client that keeps to them."""

import concurrent.futures
import sys
import threading
from typing import Any

# The client's own limits are told apart (no connection, no answer); they come first.
_GRACE_SECS = 0.5


def limited_client(client_class: type, secs: float, **settings: Any) -> Any:
    """A client whose every request ends in time, however slowly its answer drips.

    The client's own limit is for each piece that arrives, and a server that sends a blank now and then is never
    silent for so long.

    Args:
        client_class: httpx.Client of any version, or a class of it.
        secs: for connecting, sending and the whole answer together, of one request.
        settings: of the client.
    """
    base = next(kind for kind in client_class.__mro__ if kind.__name__ == "Client")
    library = sys.modules[base.__module__.partition(".")[0]]

    class Limited(client_class):
        def send(self, request: Any, **how: Any) -> Any:
            plain, answer = super().send, concurrent.futures.Future[Any]()

            def ask() -> None:
                try:
                    answer.set_result(plain(request, **how))
                except BaseException as error:
                    answer.set_exception(error)

            # A daemon: nothing can end a thread that waits for a server, and the command need not wait for it.
            threading.Thread(target=ask, daemon=True).start()
            if not concurrent.futures.wait([answer], secs + _GRACE_SECS).done:
                raise library.ReadTimeout("no whole answer in time", request=request)
            return answer.result()

    return Limited(**settings)
