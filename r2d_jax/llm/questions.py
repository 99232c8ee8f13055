"""Many rows asked one by one; in: a question per row and a schema, out: an answer or a named failure per row."""

import dataclasses
import datetime
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from r2d_jax.data.mentions import is_blank
from r2d_jax.errors import UserError
from r2d_jax.llm.cache import AnswerCache, LlmAnswer, request_key
from r2d_jax.llm.client import LlmClient, Message, Reply, RequestFault, estimate_tokens
from r2d_jax.llm.endpoint import Endpoint
from r2d_jax.llm.refusals import is_refusal

# A server that fails so many rows in a row will fail the others too, each after all its attempts.
_MAX_FAILED_IN_A_ROW = 3
_REPORT_SECS = 30.0
# Some models think aloud first, and many put JSON into a code fence; both are kept off the answer.
_JSON_OBJECT = re.compile(r"\s*(?:<think>.*?</think>)?\s*(?:```\w*)?\s*(\{.*\})\s*(?:```)?\s*", re.DOTALL)

CUT, NO_JSON, WRONG_FORM = "cut at the answer limit", "no JSON object", "JSON of another form"
REFUSED, OFF_LIST = "refused by the model", "label not on the list"
EMPTY = "empty rationale"
_NOTES = {
    CUT: "it was too long",
    NO_JSON: "it was not one JSON object",
    WRONG_FORM: "a key was missing, or a value was not of the kind asked for",
    REFUSED: "it was empty",
    OFF_LIST: 'its label was not one of "labels", letter for letter',
    EMPTY: "its rationale was empty",
}


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked of every row.

    Attributes:
        instructions: the system message; holds no case text.
        schema: form of the answer.
        dropped: fields of the schema that are not kept, not even in the cache.
        fault: looks at the kept fields and names what is wrong with them, or returns None.
        notes: what the model is told when it is asked again after a fault of this question's own.
    """

    instructions: str
    schema: type[BaseModel]
    dropped: frozenset[str] = frozenset()
    fault: Callable[[dict[str, Any]], str | None] = lambda _: None
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def messages(self, case: str, refused: str | None = None) -> list[Message]:
        """The prompt of one row; `refused` is the fault of the answer before."""
        notes = _NOTES | dict(self.notes)
        note = f"\n\nAn earlier answer was refused: {notes[refused]}." if refused else ""
        return [
            {"role": "system", "content": self.instructions + note},
            {"role": "user", "content": case},
        ]

    def answer(self, reply: Reply) -> LlmAnswer:
        """A reply checked against the schema; its text is not kept where it does not fit."""
        value, fault = self._checked(reply)
        return LlmAnswer(value, fault, reply.prompt_tokens, reply.answer_tokens, reply.tokens_estimated)

    def _checked(self, reply: Reply) -> tuple[dict[str, Any] | None, str | None]:
        if reply.finish_reason == "length":
            return None, CUT
        if reply.finish_reason == "content_filter" or is_blank(reply.text):
            return None, REFUSED
        found = _JSON_OBJECT.fullmatch(reply.text)
        if not found:
            return None, REFUSED if is_refusal(reply.text) else NO_JSON
        try:
            checked = self.schema.model_validate_json(found.group(1))
        except ValidationError as error:
            return None, NO_JSON if error.errors()[0]["type"] == "json_invalid" else WRONG_FORM
        value = checked.model_dump(exclude=set(self.dropped))
        return value, self.fault(value)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is asked about one row.

    Attributes:
        message: the user message.
        fault: looks at the kept fields of an answer to this very row and names what is wrong with them. It
            is asked again for an answer from the cache, for it may depend on more than the prompt.
    """

    message: str
    fault: Callable[[dict[str, Any]], str | None] = lambda _: None


def _key(question: Question, endpoint: Endpoint, messages: Sequence[Message], number: int) -> str:
    request = endpoint.parameters() | {"kept without": sorted(question.dropped)}
    return request_key(endpoint.base_url.rstrip("/"), request, messages, number)


def request_hash(question: Question, endpoint: Endpoint, case: Case) -> str:
    """Short sha256 of all that the answer to a row depends on: address, model, parameters and prompt."""
    return _key(question, endpoint, question.messages(case.message), 0)[:16]


@dataclasses.dataclass(frozen=True)
class RowAnswer:
    """What became of one row, all its requests together.

    Attributes:
        value: kept fields of the last answer in the right form, None where there was none.
        fault: None where value is good; else what is wrong with the last answer, or why none came.
        prompt_tokens: of all requests that were answered.
        answer_tokens: of their answers.
        tokens_estimated: True where the endpoint gave no counts for one of them.
        answered_at: time (UTC, ISO 8601) of the last answer, "" where none came.
    """

    value: dict[str, Any] | None
    fault: str | None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    tokens_estimated: bool = False
    answered_at: str = ""

    def plus(self, answer: LlmAnswer, fault: str | None) -> "RowAnswer":
        """With one more answer of this row, and what is wrong with it."""
        return RowAnswer(
            self.value if answer.value is None else answer.value,
            fault,
            self.prompt_tokens + answer.prompt_tokens,
            self.answer_tokens + answer.answer_tokens,
            self.tokens_estimated or answer.tokens_estimated,
            answer.answered_at,
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a command would send.

    Attributes:
        rows: in all.
        cached_rows: answered already.
        prompt_tokens: of the first request of each row that is left; an estimate.
        answer_tokens: the most that these answers can have.
    """

    rows: int
    cached_rows: int
    prompt_tokens: int
    answer_tokens: int


@dataclasses.dataclass(frozen=True)
class Asker:
    """Asks rows one after the other, from the cache where it can.

    Attributes:
        question: what to ask.
        endpoint: whom.
        cache: answers so far.
        max_reasks: how often a row is asked again after an answer of the wrong form.
    """

    question: Question
    endpoint: Endpoint
    cache: AnswerCache
    max_reasks: int

    def row(self, case: Case, send: Callable[[list[Message]], Reply] | None) -> RowAnswer | None:
        """Answer one row.

        Args:
            case: of the row.
            send: sends messages; None: only the cache is looked at, and None returned where it ends.
        """
        row = RowAnswer(None, None)
        for number in range(1 + self.max_reasks):
            messages = self.question.messages(case.message, row.fault)
            key = _key(self.question, self.endpoint, messages, number)
            answer = self.cache.get(key)
            if answer is None:
                if send is None:
                    return None
                answer = self.question.answer(send(messages))
                now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                answer = dataclasses.replace(answer, answered_at=now)
                self.cache.put(key, answer)
            unfit = None if answer.fault or answer.value is None else case.fault(answer.value)
            row = row.plus(answer, answer.fault or unfit)
            if row.fault is None:
                break
        return row

    def plan(self, cases: Sequence[Case]) -> Plan:
        """Count what is left to send; sends nothing."""
        left = [case for case in cases if self.row(case, None) is None]
        return Plan(
            len(cases),
            len(cases) - len(left),
            sum(estimate_tokens(self.question.messages(case.message)) for case in left),
            len(left) * self.endpoint.max_answer_tokens,
        )

    def rows(
        self, cases: Sequence[Case], client: LlmClient, say: Callable[[str], None]
    ) -> Iterator[RowAnswer]:
        """Answers of all rows, in order.

        A row whose requests all fail is a failed row and is not kept in the cache, so that the next command
        asks it again.

        Raises:
            UserError: a limit is reached, or the endpoint answers nothing; what came before is in the cache.
        """
        failed_in_a_row, last_report = 0, time.monotonic()
        for number, case in enumerate(cases, 1):
            try:
                row = self.row(case, client.send)
                assert row is not None
                failed_in_a_row = 0
            except RequestFault as fault:
                row = RowAnswer(None, str(fault))
                # Neighbours may all be long; only a fault that tells of the endpoint speaks for the next rows.
                failed_in_a_row += not fault.of_row
                if not fault.of_row and failed_in_a_row >= min(_MAX_FAILED_IN_A_ROW, len(cases)):
                    raise UserError(
                        self.endpoint.host,
                        f"no answer for {failed_in_a_row} rows in a row ({fault})",
                        "Check the endpoint and its log. Answers so far are kept; the same command goes on.",
                    ) from None
            if time.monotonic() - last_report > _REPORT_SECS:
                last_report = time.monotonic()
                say(f"{number}/{len(cases)} rows, {client.requests} requests, {client.tokens} tokens")
            yield row
