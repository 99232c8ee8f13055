"""Requests to an OpenAI-compatible endpoint; in: an endpoint, limits and messages, out: one Reply or a named fault."""

import dataclasses
import importlib
import logging
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from r2d_jax.errors import UserError, how_to_install
from r2d_jax.llm.endpoint import Endpoint
from r2d_jax.llm.whole_answer import limited_client

Message = dict[str, str]

# What is sent beside the body. The client adds more (operating system, organisation, headers of
# OPENAI_CUSTOM_HEADERS); none of it is needed, and some of it belongs to another endpoint.
# The last one is how the client remembers that the raw reply is wanted.
_SENT_HEADERS = {
    "host",
    "accept",
    "accept-encoding",
    "connection",
    "content-type",
    "content-length",
    "x-stainless-raw-response",
}
# Codes that may be told to the user; any other text of a server may repeat the case.
_KNOWN_CODES = {
    "context_length_exceeded",
    "content_filter",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "rate_limit_exceeded",
    "unsupported_parameter",
    "unsupported_value",
}
# Of these, what is wrong is the case and not the endpoint or its settings.
_CODES_OF_A_ROW = {"context_length_exceeded", "content_filter"}


class RequestFault(Exception):
    """One request that brought no answer, after all attempts; holds what happened, never case text.

    Args:
        found: what happened.
        of_row: whether the endpoint told that it is for what this row holds, so that others may well be answered.
    """

    def __init__(self, found: str, *, of_row: bool = False) -> None:
        self.of_row = of_row
        super().__init__(found)


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        text: as the model wrote it; "" where it wrote nothing.
        finish_reason: "stop", "length", "content_filter" or what else the endpoint says.
        prompt_tokens: as the endpoint counted, else estimated.
        answer_tokens: the same for the answer.
        tokens_estimated: True where the endpoint gave no counts.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    answer_tokens: int
    tokens_estimated: bool


@dataclasses.dataclass(frozen=True)
class LlmLimits:
    """How much one command may send at most; None: no limit. Retries count as requests."""

    max_requests: int | None = None
    max_tokens_total: int | None = None


def estimate_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens messages have: one for 4 bytes of UTF-8, and 4 around each message.

    Clinical English has about one token for 4 characters; with many numbers, abbreviations or another
    language it can be half as much again.
    """
    return sum(-(-len(message["content"].encode()) // 4) + 4 for message in messages)


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None

    def counts(self) -> _Usage | None:
        try:
            return _Usage.model_validate(self.usage)
        except ValidationError:
            return None


def _library() -> Any:
    try:
        library = importlib.import_module("openai")
    except ImportError as error:
        raise UserError("openai", "the package is not installed", f"Run {how_to_install('llm')}.") from error
    # With OPENAI_LOG=debug the client would print whole requests.
    logging.getLogger("openai").setLevel(logging.CRITICAL)
    return library


class LlmClient:
    """Sends messages to one endpoint, within limits.

    Retries are the client library's own: it repeats after 408, 409, 429, 5xx, time-outs and lost
    connections, waits as Retry-After says (up to 2 minutes) and else 0.5 to 8 seconds with jitter.

    Attributes:
        requests: sent so far, retries included.
        tokens: of the answers so far, prompts included.
    """

    def __init__(self, endpoint: Endpoint, limits: LlmLimits):
        """Make the connection's settings; sends nothing.

        Raises:
            UserError: the endpoint, the package or the key is not usable.
        """
        endpoint.check()
        self.endpoint, self.limits = endpoint, limits
        self.requests = self.tokens = 0
        self._expected_tokens = 0
        self._openai = _library()
        key = endpoint.read_key()
        self._authorization = f"Bearer {key}"
        self._client = self._openai.OpenAI(
            api_key=key,
            base_url=endpoint.base_url.rstrip("/"),
            max_retries=endpoint.max_attempts - 1,
            timeout=endpoint.timeout_secs,
            http_client=limited_client(
                self._openai.DefaultHttpxClient,
                endpoint.timeout_secs,
                # A redirect would carry case text to an address that nobody named.
                follow_redirects=False,
                trust_env=endpoint.environment_proxy,
                event_hooks={"request": [self._before_sending]},
            ),
        )

    def _before_sending(self, request: Any) -> None:
        # Called for every request, retries included: a limit of cost that missed those would be none.
        most = self.limits
        if most.max_requests is not None and self.requests >= most.max_requests:
            raise UserError("--max-requests", f"all {most.max_requests} are sent", _GOES_ON)
        if most.max_tokens_total is not None and self.tokens + self._expected_tokens > most.max_tokens_total:
            raise UserError(
                "--max-tokens-total",
                f"{self.tokens} tokens are used, and the next answer may take {self._expected_tokens}",
                _GOES_ON,
            )
        for name in [name for name in request.headers if name.lower() not in _SENT_HEADERS]:
            del request.headers[name]
        request.headers["User-Agent"] = "r2d_jax"
        request.headers["Authorization"] = self._authorization
        self.requests += 1

    def send(self, messages: Sequence[Message]) -> Reply:
        """Ask once, with retries.

        Raises:
            RequestFault: this request brought no answer; the next one may.
            UserError: no request will bring one (key, address, quota, server gone), or a limit is reached.
        """
        expected = estimate_tokens(messages)
        self._expected_tokens = expected + self.endpoint.max_answer_tokens
        openai = self._openai
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                messages=list(messages), **self.endpoint.parameters()
            )
            reply = _reply(raw.content, expected)
        except openai.APIStatusError as error:
            raise self._status_fault(error) from None
        except openai.APITimeoutError as error:
            raise self._connection_fault(error, f"no answer in {self.endpoint.timeout_secs:g} s") from None
        except openai.APIConnectionError as error:
            raise self._connection_fault(error, "connection lost") from None
        except ValidationError:
            raise RequestFault("reply is not a chat completion") from None
        self.tokens += reply.prompt_tokens + reply.answer_tokens
        return reply

    def _connection_fault(self, error: Any, what: str) -> Exception:
        # Without a connection, every other row would only wait for the same attempts.
        if type(error.__cause__).__name__.startswith("Connect"):
            return UserError(
                self.endpoint.host,
                f"no connection in {self.endpoint.max_attempts} attempts",
                "Check --base-url and that the server runs (a proxy needs --environment-proxy). " + _GOES_ON,
            )
        return RequestFault(what)

    def _status_fault(self, error: Any) -> Exception:
        status, known = error.status_code, isinstance(error.code, str) and error.code in _KNOWN_CODES
        code = f", {error.code}" if known else ""
        found = f"HTTP {status}{code}"
        if status in (401, 403):
            fix = f"Check the key in {self.endpoint.key_variable}, and --base-url."
        elif status == 404:
            fix = "Check --llm, and that --base-url has its path (often /v1)."
        elif status < 400:
            fix = "It is a redirect, which is not followed; give the final address as --base-url."
        elif status == 429 or code == ", insufficient_quota":
            wait = error.response.headers.get("retry-after", "")
            fix = f"Try again {f'in {wait} s' if wait.isdecimal() else 'later'}, or raise --max-attempts."
        else:
            return RequestFault(found, of_row=known and error.code in _CODES_OF_A_ROW)
        return UserError(self.endpoint.host, f"refuses requests ({found})", f"{fix} {_GOES_ON}")


_GOES_ON = "Answers so far are kept; the same command goes on."


def _reply(content: bytes, prompt_estimate: int) -> Reply:
    completion = _Completion.model_validate_json(content)
    choice, counts = completion.choices[0], completion.counts()
    # Some endpoints say in a field of its own that the model refuses; what it then says is no answer.
    text = "" if choice.message.refusal else choice.message.content or ""
    return Reply(
        text,
        choice.finish_reason or "",
        counts.prompt_tokens if counts else prompt_estimate,
        counts.completion_tokens if counts else -(-len(text.encode()) // 4),
        counts is None,
    )
