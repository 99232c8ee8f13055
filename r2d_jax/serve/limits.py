"""What a server takes at most; in: an operator's options, out: Limits, and Refused where one of them is passed."""

import dataclasses

# A character may be written as a \u escape of six bytes in JSON; the rest is names and signs.
_JSON_BYTES_PER_CHARACTER, _JSON_FRAME_BYTES = 6, 4096


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much one server takes and holds, and how long it waits, at most.

    Attributes:
        note_characters: of question and context together.
        upload_bytes: of one uploaded file.
        upload_rows: of one uploaded file.
        queue_rows: notes that wait for the model, those of an upload not counted.
        uploads: uploaded files that are held at once, with their results.
        keep_secs: how long the results of an upload are held, from its end.
        body_secs: how long a request may take to arrive.
        answer_secs: how long the answer to a single note may take, waiting included; a row of an upload has all time.
    """

    note_characters: int = 20_000
    upload_bytes: int = 8 * 2**20
    upload_rows: int = 5_000
    queue_rows: int = 256
    uploads: int = 8
    keep_secs: float = 1800.0
    body_secs: float = 30.0
    answer_secs: float = 120.0

    @property
    def note_bytes(self) -> int:
        """Maximum number of bytes of a JSON body that holds a note."""
        return self.note_characters * _JSON_BYTES_PER_CHARACTER + _JSON_FRAME_BYTES


class Refused(Exception):
    """A request that is not served.

    Args:
        status: HTTP status.
        reason: one word, for the metrics.
        text: one line for the sender. Never contains case text.
        retry_secs: when to try again; None: never as it is.
    """

    def __init__(self, status: int, reason: str, text: str, retry_secs: int | None = None) -> None:
        self.status, self.reason, self.text, self.retry_secs = status, reason, text, retry_secs
        super().__init__(text)
