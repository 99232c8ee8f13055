"""From options to a running server; in: where to listen and what to load, out: nothing, once it was stopped."""

import dataclasses
import ipaddress
import os
import pathlib
import socket
import stat
import sys
import types
import warnings
from collections.abc import Sequence

import uvicorn
from rich.console import Console

from r2d_jax.errors import UserError
from r2d_jax.evaluation.model_folder import devices_in_use, find_model_folder
from r2d_jax.runtime.compilation import CompileCounter
from r2d_jax.runtime.reporting import say
from r2d_jax.runtime.stop_signal import StopSignal
from r2d_jax.serve.app import make_app
from r2d_jax.serve.guard import Guard, host_name
from r2d_jax.serve.limits import Limits
from r2d_jax.serve.logs import write_logs
from r2d_jax.serve.schema import INTENDED_USE
from r2d_jax.serve.served_model import ServedModel
from r2d_jax.serve.service import Service

TOKEN_VARIABLE = "R2D_SERVE_TOKEN"
_LEAST_TOKEN = 16
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
# Beside the notes that may wait: connections for health, metrics, the page and progress.
_MORE_CONNECTIONS = 256


@dataclasses.dataclass(frozen=True)
class Listening:
    """Where a server is reached, and by whom.

    Attributes:
        host: name or address to listen on.
        port: 0: any free one.
        allowed_hosts: names that requests may use; none: those of this machine, and `host`, where it
            listens on loopback, else any.
        token_file: file with the token; None: the environment variable, or no token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: Sequence[str] = ()
    token_file: pathlib.Path | None = None

    @property
    def named(self) -> frozenset[str]:
        """The names among allowed_hosts, without ports."""
        return frozenset(host_name(name) for name in self.allowed_hosts)


def read_token(file: pathlib.Path | None) -> str | None:
    """The token from a file, else from $R2D_SERVE_TOKEN; None where there is neither.

    Raises:
        UserError: it cannot be read, is short, or cannot stand in a header. It is never repeated.
    """
    where = f"--token-file {file}" if file else f"environment variable {TOKEN_VARIABLE}"
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        if token is None:
            return None
    else:
        try:
            token = file.read_text(encoding="utf-8")
            others = file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UserError(where, f"cannot be read ({reason})", "Name a file with the token.") from error
        if others:
            warnings.warn(f"{where}: other users may read it; `chmod 600` keeps it yours", stacklevel=2)
    token = token.strip()
    if len(token) < _LEAST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(
            where,
            f"holds no token of at least {_LEAST_TOKEN} ASCII characters without blanks",
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one.",
        )
    return token


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to host and port, so that a port in use is told before a model is loaded.

    Raises:
        UserError: no such host here, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host}", "is not an address of this machine", "Use 127.0.0.1.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UserError(
            f"--host {host} --port {port}",
            f"cannot be listened on ({error.strerror})",
            "Choose another --port; 0 takes any free one.",
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The web address of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def hosts_of(listening: Listening, *, local: bool, address: str = "") -> frozenset[str] | None:
    """Names that a Host header may have; None: any.

    Args:
        listening: where, and by which other names.
        local: whether only this machine reaches it.
        address: that it is bound to: loopback has more than one, and a name of this machine may be of any of them.
    """
    if local:
        # As a header has them: IPv6 in brackets, letters small.
        own = {f"[{name}]" if ":" in name else name.lower() for name in (listening.host, address) if name}
        return listening.named.union(_LOCAL_NAMES, own)
    return listening.named or None


def warn_of_reach(*, local: bool, token: str | None) -> None:
    """Warn where others than this machine reach the server."""
    if local:
        return
    if token is None:
        warnings.warn(
            "the server listens beyond this machine and asks for no token: whoever reaches it can send and read; "
            f"set --token-file or {TOKEN_VARIABLE}",
            stacklevel=2,
        )
    warnings.warn(
        "texts and token go over the network unencrypted; put a proxy with TLS before it, or use an ssh tunnel",
        stacklevel=2,
    )


class _Server(uvicorn.Server):
    """Takes nothing new from the moment of a stop signal on, and finishes what is in work."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service
        self.model_failed = False

    def handle_exit(self, sig: int, frame: types.FrameType | None) -> None:
        self._service.refuse()
        super().handle_exit(sig, frame)

    def give_up(self) -> None:
        self.model_failed = True
        self.should_exit = True


def make_server(
    service: Service,
    limits: Limits,
    *,
    hosts: frozenset[str] | None,
    named: frozenset[str] = frozenset(),
    token: str | None,
    grace_secs: float = 30.0,
    access_log: bool = True,
) -> _Server:
    """A server for `run(sockets=[...])`; see `Guard` for the arguments."""
    guarded = Guard(
        make_app(service),
        limits=limits,
        metrics=service.metrics,
        hosts=hosts,
        named=named,
        token=token,
        access_log=access_log,
    )
    config = uvicorn.Config(
        guarded,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        http="h11",
        loop="asyncio",
        proxy_headers=False,
        limit_concurrency=limits.queue_rows + _MORE_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(grace_secs)),
    )
    return _Server(config, service)


def serve(
    path: pathlib.Path,
    listening: Listening,
    limits: Limits,
    console: Console,
    *,
    batch_size: int,
    widths: int,
    wait_secs: float,
    grace_secs: float,
    access_log: bool,
) -> None:
    """Load a model and serve it until SIGTERM or Ctrl-C; ends the process where the model cannot be waited for.

    Args:
        path: run, exported or imported folder.
        listening: where, and for whom.
        limits: what is taken.
        console: for the address and the state.
        batch_size: most notes computed at once.
        widths: most widths of notes that are compiled.
        wait_secs: how long a note waits for others to share its batch.
        grace_secs: how long a stop waits for what is in work.
        access_log: whether each request gets a line on stderr.

    Raises:
        UserError: a fault of options or folder, before anything is served.
        RuntimeError: the model could not be compiled.
    """
    token = read_token(listening.token_file)
    bound = bind(listening.host, listening.port)
    with bound:
        local = is_local(bound)
        model = ServedModel.open(path, batch_size=batch_size, widths=widths)
        say(console, devices_in_use(find_model_folder(path)))
        write_logs()
        warn_of_reach(local=local, token=token)

        def prepare() -> None:
            with CompileCounter() as compiled:
                model.warm()
            say(console, f"ready: widths {', '.join(map(str, model.widths))} tokens; {compiled}")

        service = Service(
            model,
            limits,
            wait_secs=wait_secs,
            grace_secs=grace_secs,
            prepare=prepare,
            on_failure=lambda: server.give_up(),
        )
        server = make_server(
            service,
            limits,
            hosts=hosts_of(listening, local=local, address=bound.getsockname()[0]),
            named=listening.named,
            token=token,
            grace_secs=grace_secs,
            access_log=access_log,
        )
        say(console, INTENDED_USE)
        say(console, f"serving {model.name} at {address_of(bound)} (Ctrl-C stops); compiling its shapes")
        # uvicorn raises the signal again once it has stopped; that a stop was asked for is no failure.
        with StopSignal():
            server.run(sockets=[bound])
        if server.model_failed:
            raise RuntimeError("the model could not be compiled; see above")
        say(console, "stopped")
        if service.batcher.working:
            # Its thread is inside XLA, which cannot be told to end; Python's own end would abort there.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
