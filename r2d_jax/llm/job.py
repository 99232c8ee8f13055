"""One command's worth of questions; in: cases and limits, out: what would be sent (dry run), or all answers."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console

from r2d_jax.errors import Preempted
from r2d_jax.llm.cache import AnswerCache
from r2d_jax.llm.client import LlmClient, LlmLimits
from r2d_jax.llm.endpoint import Endpoint
from r2d_jax.llm.questions import Asker, Case, Question, RowAnswer, request_hash
from r2d_jax.runtime.reporting import say


@dataclasses.dataclass(frozen=True)
class LlmJob:
    """What all commands that ask an LLM do in the same way.

    Attributes:
        name: of the command, before every line that is printed.
        endpoint: whom to ask.
        limits: of cost.
        cache_file: paid answers; a file of its own for each command.
        max_reasks: how often a row is asked again after an answer of the wrong form.
        console: where to print; never case text.
    """

    name: str
    endpoint: Endpoint
    limits: LlmLimits
    cache_file: pathlib.Path
    max_reasks: int
    console: Console

    def say(self, text: str) -> None:
        """One line of this command."""
        say(self.console, f"{self.name}: {text}")

    def hashes(self, question: Question, cases: Sequence[Case]) -> list[str]:
        """Of each row what its results are kept under, see `request_hash`."""
        return [request_hash(question, self.endpoint, case) for case in cases]

    def dry_run(self, question: Question, cases: Sequence[Case], *, show_prompt: bool) -> None:
        """Say what would be sent, how much and where to; sends and writes nothing.

        Args:
            question: what would be asked.
            cases: what is asked about each row.
            show_prompt: print the prompt of the first row, WITH ITS CASE TEXT.
        """
        cache = AnswerCache(self.cache_file, read_only=True)
        plan = Asker(question, self.endpoint, cache, self.max_reasks).plan(cases)
        left = plan.rows - plan.cached_rows
        self.say(f"dry run, nothing is sent; model {self.endpoint.llm} at {self.endpoint.base_url}")
        self.say(f"{plan.rows} rows, {plan.cached_rows} of them answered in the cache")
        self.say(f"{left} requests; at most {left * (1 + self.max_reasks)} with re-asks, retries not counted")
        self.say(f"about {plan.prompt_tokens} prompt tokens (an estimate: one for 4 bytes of text)")
        self.say(f"at most {plan.answer_tokens} answer tokens, re-asks not counted")
        if show_prompt and cases:
            for message in question.messages(cases[0].message):
                # An escape sequence in a case text must not move the cursor of the user's terminal.
                text = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in message["content"])
                print(f"\n[{message['role']}]\n{text}")

    def ask(self, question: Question, cases: Sequence[Case]) -> list[RowAnswer]:
        """Ask all rows, those in the cache without a request.

        Args:
            question: what to ask.
            cases: what is asked about each row.

        Raises:
            UserError: key, package or endpoint not usable, or a limit reached; answers so far are kept.
            Preempted: Ctrl-C; answers so far are kept.
        """
        client = LlmClient(self.endpoint, self.limits)
        cache = AnswerCache(self.cache_file)
        if cache.damaged_lines:
            told = f"{cache.damaged_lines} unreadable lines; their rows are asked again"
            print(f"warning: {self.cache_file}: {told}", file=sys.stderr)
        asker = Asker(question, self.endpoint, cache, self.max_reasks)
        answers: list[RowAnswer] = []
        try:
            for answer in asker.rows(cases, client, self.say):
                answers.append(answer)
        except KeyboardInterrupt:
            done = f"{len(answers)} of {len(cases)} rows are answered and kept"
            raise Preempted(f"stopped: {done}; the same command goes on") from None
        finally:
            cache.close()
        self.say(f"{len(cases)} rows; sent now: {client.requests} requests, {client.tokens} tokens")
        return answers
