"""What goes over the wire; in: JSON of requests, out: checked notes, and the JSON of answers as OpenAPI shows it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

INTENDED_USE = (
    "Decision support for research. This is not a medical device: it was not assessed for clinical use, its "
    "answers can be wrong, and no decision about a patient may rest on them."
)
_NOTE = "Woman, 54 years, attends with crushing chest pain for 2 hours. Oxygen saturation 91%."
_RATIONALE = "The patient has crushing chest pain and an oxygen saturation of 91%."


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [values]})


class Note(BaseModel):
    """A note to label."""

    model_config = _example(question=_NOTE, context="", explain=True)
    question: Annotated[str, Field(description="The text; may not be blank.")]
    context: Annotated[
        str, Field(description="More text after it. Its end is left out first where the note is too long.")
    ] = ""
    explain: Annotated[
        bool, Field(description="Whether to write a rationale, which takes most of the time.")
    ] = True


class WhatIf(BaseModel):
    """A note and a label to explain in place of the predicted one."""

    model_config = _example(question=_NOTE, context="", label="standard")
    question: Annotated[str, Field(description="The text; may not be blank.")]
    context: Annotated[str, Field(description="More text after it.")] = ""
    label: Annotated[str, Field(description="A label of the label set; any text where the model has none.")]


class Span(BaseModel):
    """A part of a text; characters are Unicode code points, and `end` is the first one after it."""

    start: int
    end: int


class UnsupportedStatement(Span):
    """A statement of the rationale that the note does not hold."""

    kind: Annotated[str, Field(description="number or finding.")]
    text: str
    contradicted: Annotated[bool, Field(description="The note denies it, or affirms what is denied here.")]


class Explanation(BaseModel):
    """A rationale, and what of it stands in the note."""

    rationale: str
    rationale_finished: Annotated[
        bool | None,
        Field(description="false: cut at the length limit; null: not known, under a given label."),
    ]
    names: Annotated[
        Literal["label", "other", "none"],
        Field(
            description="Which label it names: the one that it explains, only another of the set, or none."
        ),
    ]
    cited: Annotated[
        list[Span],
        Field(description="Parts of the note that the rationale cites: of question, one blank and context."),
    ]
    unsupported: Annotated[
        list[UnsupportedStatement],
        Field(description="Parts of the rationale that a rule did not find in the note. Rules miss some."),
    ]


class LabelProbability(BaseModel):
    """One label of the label set."""

    label: str
    probability: float


class Answer(BaseModel):
    """What the model says of a note."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "label": "very urgent",
                    "label_valid": True,
                    "label_finished": True,
                    "label_confidence": 0.93,
                    "probability": 0.88,
                    "probabilities": [
                        {"label": "very urgent", "probability": 0.88},
                        {"label": "urgent", "probability": 0.12},
                    ],
                    "calibrated": True,
                    "abstained": False,
                    "threshold": 0.7,
                    "explanation": {
                        "rationale": _RATIONALE,
                        "rationale_finished": True,
                        "names": "none",
                        "cited": [{"start": 0, "end": 62}, {"start": 63, "end": 85}],
                        "unsupported": [],
                    },
                    "input_tokens": 31,
                    "input_cut": False,
                    "lost_characters": 0,
                    "intended_use": INTENDED_USE,
                }
            ]
        }
    )
    label: Annotated[str, Field(description="As the model writes it.")]
    label_valid: Annotated[
        bool | None, Field(description="Whether it is in the label set; null where the model has none.")
    ]
    label_finished: Annotated[bool, Field(description="false: cut at the length limit.")]
    label_confidence: Annotated[
        float, Field(description="exp of the mean token log-probability. Not a probability of being right.")
    ]
    probability: Annotated[
        float | None, Field(description="Of this label among the label set; null where it is not in a set.")
    ]
    probabilities: Annotated[
        list[LabelProbability] | None,
        Field(description="Of the whole label set, likeliest first; null where the model has none."),
    ]
    calibrated: Annotated[
        bool, Field(description="Whether the probabilities were calibrated on rows that were not trained on.")
    ]
    abstained: Annotated[
        bool | None,
        Field(description="true: too unsure to be used; null where nothing was set for that."),
    ]
    threshold: Annotated[
        float | None,
        Field(description="Least probability that is answered; null: none was set, or none was found."),
    ]
    explanation: Annotated[
        Explanation | None, Field(description="null where none was asked for, or the model gives none.")
    ]
    input_tokens: Annotated[int, Field(description="Of the whole note.")]
    input_cut: Annotated[bool, Field(description="true: the model did not see the end of the note.")]
    lost_characters: Annotated[
        int,
        Field(description="Characters of the note that the vocabulary lacks: the model saw none of them."),
    ]
    intended_use: str = INTENDED_USE


class WhatIfAnswer(BaseModel):
    """The rationale that the model writes when it is given a label: not what it predicts."""

    label: Annotated[str, Field(description="The given label, as the label set spells it.")]
    explanation: Explanation
    input_cut: bool
    lost_characters: int
    intended_use: str = INTENDED_USE


class ModelLimits(BaseModel):
    """The limits of the server."""

    note_characters: int
    upload_bytes: int
    upload_rows: int
    input_tokens: Annotated[int, Field(description="Longest note that is seen whole.")]


class ModelFacts(BaseModel):
    """What is served."""

    name: str
    version: str
    labels: Annotated[list[str], Field(description="The label set; empty where the model has none.")]
    explains: Annotated[bool, Field(description="Whether it writes rationales.")]
    follows_labels: Annotated[bool, Field(description="Whether /api/what-if is served.")]
    calibrated: bool
    threshold: float | None
    target_risk: Annotated[
        float | None, Field(description="Share of wrong labels that the threshold was chosen for.")
    ]
    columns: Annotated[
        dict[str, str | None], Field(description="Columns of uploaded files: question, context, id.")
    ]
    limits: ModelLimits
    intended_use: str = INTENDED_USE


UploadState = Literal["waiting", "running", "done", "stopped"]


class UploadStatus(BaseModel):
    """How far an upload is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "kX3vB2mZq0nq8yqfW3m1Tg",
                    "state": "running",
                    "rows": 200,
                    "done": 48,
                    "faults": 0,
                    "abstained": 5,
                    "labels": {"urgent": 30, "standard": 18},
                }
            ]
        }
    )
    id: Annotated[str, Field(description="Names the upload; who has it can read the results.")]
    state: UploadState
    rows: int
    done: int
    faults: Annotated[int, Field(description="Finished rows without an answer; their `error` says why.")]
    abstained: Annotated[int, Field(description="Finished rows whose answer is too unsure to be used.")]
    labels: Annotated[dict[str, int], Field(description="Finished rows by label.")]


class Fault(BaseModel):
    """Why a request was not served. Never holds text of the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"detail": "question: is blank."}]})
    detail: str


class Health(BaseModel):
    """Whether the server lives, and whether it answers."""

    live: bool
    ready: bool
    state: Annotated[str, Field(description="starting, ready, stopping or failed.")]
