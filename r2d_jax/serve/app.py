"""The routes; in: a Service, out: a FastAPI application with its page, its JSON API and their description."""

import asyncio
import dataclasses
import mimetypes
import pathlib
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import r2d_jax
from r2d_jax.serve.guard import INTERNAL
from r2d_jax.serve.limits import Refused
from r2d_jax.serve.schema import (
    INTENDED_USE,
    Answer,
    Fault,
    Health,
    ModelFacts,
    Note,
    UploadStatus,
    WhatIf,
    WhatIfAnswer,
)
from r2d_jax.serve.service import Service
from r2d_jax.serve.upload_rows import Format, read_upload
from r2d_jax.serve.uploads import results_text

T = TypeVar("T")
_STATIC = pathlib.Path(__file__).with_name("static")
_FIELDS = {
    "question",
    "context",
    "explain",
    "label",
    "format",
    "question_column",
    "context_column",
    "id_column",
}
_WHAT_IF = "/api/what-if"
# By pydantic's type of a fault.
_BODY_FAULTS = {
    "model_attributes_type": "the body is no JSON object; send it with the header content-type: application/json",
    "json_invalid": "the body is not valid JSON",
}
_FIELD_FAULTS = {
    "missing": "is missing",
    "string_type": "is not text",
    "bool_type": "is neither true nor false",
    "bool_parsing": "is neither true nor false",
    "string_too_long": "is too long",
    "literal_error": "is none of the values that are known",
}
_DESCRIPTION = f"""**{INTENDED_USE}**

One model that labels a note and explains the label. Texts and results are held in memory only, never written to disk
or to a log. Where the server has a token, requests bear it: `Authorization: Bearer TOKEN`.

Spans count Unicode code points of the text that the model read: question, one blank, and context where there is one.
"""
_WHY = {
    401: "No token, or a wrong one.",
    404: "No such upload.",
    409: "Not with this model, or not yet.",
    413: "Note, file or body too large.",
    422: "Not in the form that is asked for.",
    429: "Too much is waiting; see Retry-After.",
    503: "Starting, stopping, or too slow.",
}
_Column = Annotated[str | None, Query(max_length=200, description="Default: as in training.")]
_Id = Annotated[str, Path(max_length=64)]
# For the description alone: `Guard` looks at the token, before anything of a request is read.
_BEARER = [Security(HTTPBearer(auto_error=False, description="Where the server has a token."))]


def _faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Fault, "description": _WHY[status]} for status in (401, *statuses)}


def make_app(service: Service) -> FastAPI:
    """The application; its lifespan starts and stops the service."""
    app = FastAPI(
        title="r2d serve",
        version=r2d_jax.__version__,
        description=_DESCRIPTION,
        # Their pages load scripts of other hosts.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lambda _: service.running(),
    )
    _add_page(app)
    _add_state(app, service)
    _add_notes(app, service)
    _add_uploads(app, service)
    _add_faults(app, service)
    return app


def _add_page(app: FastAPI) -> None:
    files = {path.name: path.read_bytes() for path in _STATIC.iterdir() if path.is_file()}

    def sent(name: str) -> Response:
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(files[name], media_type=kind)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return sent("index.html")

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise Refused(404, "static", "No such file.")
        return sent(name)


def _add_state(app: FastAPI, service: Service) -> None:
    def health() -> Health:
        state = service.batcher.state
        return Health(live=state != "failed", ready=state == "ready", state=state)

    def told(wanted: bool, response: Response) -> Health:
        if not wanted:
            response.status_code = 503
        return health()

    @app.get("/health", tags=["server"], responses={503: {"model": Health}})
    async def live_and_ready(response: Response) -> Health:
        """Whether the server lives and answers; 503 where it does not answer."""
        return told(health().ready, response)

    @app.get("/health/live", tags=["server"], responses={503: {"model": Health}})
    async def live(response: Response) -> Health:
        """Whether the process is of any use; 503: restart it."""
        return told(health().live, response)

    @app.get("/health/ready", tags=["server"], responses={503: {"model": Health}})
    async def ready(response: Response) -> Health:
        """Whether notes are answered; 503 while the model is compiled and once the server stops."""
        return told(health().ready, response)

    @app.get("/metrics", tags=["server"], dependencies=_BEARER, response_class=Response, responses=_faults())
    async def metrics() -> Response:
        """Counts and latencies in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/model", tags=["notes"], dependencies=_BEARER, responses=_faults())
    async def model() -> ModelFacts:
        """What is served, and its limits."""
        return service.facts()


async def _gone(request: Request) -> None:
    # The body has been read, so all that can still come is the end of the connection.
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _answered(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, which is ended where its sender goes: a note that nobody waits for leaves the queue.

    Raises:
        Refused: as `work`; 400, to nobody, where the sender has gone.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(400, "gone", "The sender has gone.")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        # Only then has the note left the queue: a refusal that was counted before let the model take it all the same.
        await asyncio.wait((task, gone))


def _add_notes(app: FastAPI, service: Service) -> None:
    @app.post("/api/predict", tags=["notes"], dependencies=_BEARER, responses=_faults(413, 422, 429, 503))
    async def predict(request: Request, note: Note) -> Answer:
        """Label a note and explain the label."""
        return await _answered(request, service.answer(note.question, note.context, explain=note.explain))

    @app.post(_WHAT_IF, tags=["notes"], dependencies=_BEARER, responses=_faults(409, 413, 422, 429, 503))
    async def what_if(request: Request, note: WhatIf) -> WhatIfAnswer:
        """Write the rationale that the model gives for another label: what it would say, not what it predicts."""
        return await _answered(request, service.what_if(note.question, note.context, note.label))


def _add_uploads(app: FastAPI, service: Service) -> None:
    uploads = service.uploads

    body = {
        "requestBody": {
            "required": True,
            "content": {
                "text/csv": {"schema": {"type": "string"}, "example": "id,question\n1,Fever for two days.\n"},
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"id": "1", "question": "Fever for two days."}\n',
                },
            },
        }
    }

    @app.post(
        "/api/uploads",
        tags=["uploads"],
        dependencies=_BEARER,
        status_code=202,
        responses=_faults(413, 422, 429, 503),
        openapi_extra=body,
    )
    async def upload(
        request: Request,
        format: Annotated[Format, Query(description="Of the file in the body, in UTF-8.")],
        question_column: _Column = None,
        context_column: _Column = None,
        id_column: _Column = None,
    ) -> UploadStatus:
        """Take a file of notes; the file itself is the body."""
        if service.batcher.state != "ready":
            raise Refused(503, "not_ready", "The server is not ready.", 5)
        uploads.require_room()
        asked: dict[str, Any] = {"question": question_column, "context": context_column, "id": id_column}
        columns = dataclasses.replace(
            service.model.card.columns, **{name: value for name, value in asked.items() if value}
        )
        rows = await run_in_threadpool(read_upload, await request.body(), format, columns, service.limits)
        return uploads.begin(rows).status()

    @app.get("/api/uploads/{upload_id}", tags=["uploads"], dependencies=_BEARER, responses=_faults(404))
    async def upload_status(upload_id: _Id) -> UploadStatus:
        """How far an upload is."""
        return uploads.find(upload_id).status()

    @app.get(
        "/api/uploads/{upload_id}/results",
        tags=["uploads"],
        dependencies=_BEARER,
        response_class=Response,
        responses=_faults(404, 409),
    )
    async def upload_results(upload_id: _Id, format: Literal["jsonl", "csv"] = "jsonl") -> Response:
        """The finished rows of an upload that is done or was stopped, in the order of the file.

        In CSV, text that a spreadsheet would take for a formula has an apostrophe before it.
        """
        found = uploads.find(upload_id)
        if found.state not in ("done", "stopped"):
            raise Refused(409, "unfinished", "The upload is not done yet.", 2)
        text = await run_in_threadpool(results_text, found, format)
        kind = "text/csv; charset=utf-8" if format == "csv" else "application/x-ndjson"
        headers = {"content-disposition": f'attachment; filename="predictions.{format}"'}
        return Response(text, media_type=kind, headers=headers)

    @app.delete(
        "/api/uploads/{upload_id}",
        tags=["uploads"],
        dependencies=_BEARER,
        status_code=204,
        responses=_faults(404),
    )
    async def delete_upload(upload_id: _Id) -> Response:
        """Stop work on an upload and forget its results."""
        uploads.delete(upload_id)
        return Response(status_code=204)


def _add_faults(app: FastAPI, service: Service) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        service.metrics.refused.labels(error.reason).inc()
        headers = None if error.retry_secs is None else {"retry-after": str(error.retry_secs)}
        return JSONResponse({"detail": error.text}, error.status, headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        # It is raised again after this answer, and logged without its message.
        return JSONResponse({"detail": INTERNAL}, 500)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _told(error.errors(), request.url.path)}, 422)

    @app.exception_handler(HTTPException)
    async def wrong_address(_: Request, error: HTTPException) -> JSONResponse:
        what = {404: "No such address.", 405: "Not by this method."}
        return JSONResponse({"detail": what.get(error.status_code, "Not served.")}, error.status_code)


def _told(faults: Sequence[Any], path: str) -> str:
    """Which fields are at fault and how; neither what stood there nor names that the sender made up."""
    told = []
    known = WhatIf.model_fields if path.endswith(_WHAT_IF) else Note.model_fields
    for fault in faults:
        kind, place = str(fault.get("type", "wrong")), tuple(fault.get("loc", ()))
        names = [part for part in place if part in _FIELDS]
        if kind in _BODY_FAULTS:
            told.append(_BODY_FAULTS[kind])
        elif kind == "extra_forbidden":
            told.append(f"a field: is not known; there are {', '.join(known)}")
        else:
            where = names[-1] if names else "the body" if place == ("body",) else "a field"
            told.append(f"{where}: {_FIELD_FAULTS.get(kind, kind.replace('_', ' '))}")
    # Each unknown field gives the same line.
    return "; ".join(list(dict.fromkeys(told))[:5]) + "."
