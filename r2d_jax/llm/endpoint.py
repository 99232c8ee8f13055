"""Whom an LLM question goes to; in: what the user names, out: a checked Endpoint, its parameters and its key."""

import dataclasses
import ipaddress
import os
import urllib.parse
from typing import Any

from r2d_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where requests go and how they are asked.

    Attributes:
        base_url: address before /chat/completions; there is no default.
        llm: name of the model at the endpoint.
        key_variable: environment variable that holds the API key.
        temperature: 0 asks for the likeliest answer; not sent to a reasoning model.
        max_answer_tokens: longest answer.
        json_mode: asks the endpoint itself for a JSON object; not every endpoint can.
        reasoning_model: sends max_completion_tokens in place of max_tokens, and no temperature.
        timeout_secs: longest wait for the whole answer to one request.
        max_attempts: requests per answer, the first one included.
        allow_http: True lets case text go unencrypted to another machine.
        environment_proxy: True uses the proxy (and certificates) that the environment names.
    """

    base_url: str
    llm: str
    key_variable: str = "OPENAI_API_KEY"
    temperature: float = 0.0
    max_answer_tokens: int = 1024
    json_mode: bool = False
    reasoning_model: bool = False
    timeout_secs: float = 120.0
    max_attempts: int = 5
    allow_http: bool = False
    environment_proxy: bool = False

    @property
    def host(self) -> str:
        """Host and port, without what else an address may hold."""
        return urllib.parse.urlsplit(self.base_url).netloc.rpartition("@")[2]

    def parameters(self) -> dict[str, Any]:
        """What an answer depends on beside the messages, as sent."""
        limit = "max_completion_tokens" if self.reasoning_model else "max_tokens"
        sent: dict[str, Any] = {"model": self.llm, limit: self.max_answer_tokens}
        if not self.reasoning_model:
            sent["temperature"] = self.temperature
        if self.json_mode:
            sent["response_format"] = {"type": "json_object"}
        return sent

    def check(self) -> None:
        """Refuse an address that is missing, unclear or not private; sends nothing.

        Raises:
            UserError: --base-url or --llm is not usable. The address itself is not repeated, for it may hold a
                password.
        """
        where, example = "--base-url", "Name it whole, for example http://localhost:8000/v1."
        if not self.base_url.strip():
            raise UserError(where, "is not given, and without it nothing is sent anywhere", example)
        if not self.llm.strip():
            raise UserError("--llm", "is empty", "Name the model as the endpoint knows it.")
        whole_option("--llm", self.llm)
        try:
            parts = urllib.parse.urlsplit(self.base_url)
            named = parts.hostname and (parts.port is None or parts.port)
        except ValueError:
            named = None
        if not named or parts.scheme not in ("http", "https") or not _plain(self.base_url):
            raise UserError(where, "is not an http or https address of a host", example)
        if parts.username is not None or parts.query or parts.fragment:
            raise UserError(
                where,
                "holds a user, password, query or fragment",
                f"{example} The key comes from the environment variable {self.key_variable}.",
            )
        if parts.scheme == "http" and not (self.allow_http or _is_here(str(parts.hostname))):
            raise UserError(
                where,
                f"http to {self.host} would send case text unencrypted to another machine",
                "Use https, or --allow-http in a network that you trust.",
            )

    def read_key(self) -> str:
        """The API key from the environment.

        Raises:
            UserError: it is missing, or cannot stand in a header.
        """
        key = os.environ.get(self.key_variable, "")
        if not key:
            raise UserError(
                f"environment variable {self.key_variable}",
                "is not set, and it holds the API key",
                "Set it, or name another one by --api-key-env; a local server takes any word.",
            )
        if not _plain(key):
            raise UserError(
                f"environment variable {self.key_variable}",
                "holds a blank, a line break or a character outside ASCII",
                "Set it to the bare key.",
            )
        return key


def whole_option(option: str, text: str) -> None:
    """Refuse a text for a request that is no text: bytes that the terminal's encoding cannot read.

    Raises:
        UserError: the option is at fault; its text is not repeated.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(option, "holds bytes that are not text", "Write it in UTF-8.") from error


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
