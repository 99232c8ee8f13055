"""What a run tells of an exported model; in: its folder and the checkpoint exported, out: figures, counts, settings."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from r2d_jax.evaluation.report_values import stage_summary
from r2d_jax.evaluation.run_record import RunRecord, read_run
from r2d_jax.methods import METHODS
from r2d_jax.runtime.run_files import HF_CONFIG, ROW_COUNTS, RUN_STATE

_CHECKPOINT = re.compile(r"(?:^|/)(stage(\d)/(?:best|latest)/(\d+))$")
_HUB_ROWS = "hf:"
# None of these holds a path or a text of the user's rows.
_COMMON = (
    "method",
    "label_decode",
    "seed",
    "model.compute_dtype",
    "tokenizer.text_map",
    "data.input_limit_tokens",
)
_STAGE = (
    "max_steps",
    "batch_size",
    "patience_evals",
    "optimizer.learning_rate",
    "optimizer.warmup_steps",
    "optimizer.weight_decay",
    "optimizer.clip_norm",
)
_RATIONALES = ("data.rationale_limit_tokens", "stage2.rationale_source", "stage2.label_weight")
_SAMPLING = (
    "stage1.enabled",
    "stage2.warmup_fraction",
    "stage2.transition_fraction",
    "stage2.max_sampling_probability",
    "stage2.select_before_transition",
    "stage2.label_decode_dropout",
)
_R2DC = ("stage2.adaptive_sampling", "stage2.tau_window_steps", "stage2.cycle_weight")


def _told_settings(stored: Mapping[str, Any]) -> Iterator[str]:
    """Names of the settings that mattered to this run's method."""
    # Of a method that this version does not know: what all that explain have in common.
    method = METHODS.get(str(stored.get("method")), METHODS["dss"])
    yield from _COMMON
    if method.two_stages and stored.get("stage1.enabled") is not False:
        yield from (f"stage1.{name}" for name in (*_STAGE, "rationale_source"))
    yield from (f"stage2.{name}" for name in (*_STAGE, "class_weights"))
    if method.explains:
        yield from _RATIONALES
    if method.two_stages:
        yield from _SAMPLING
    if method.adaptive:
        yield from _R2DC


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What stands in a run's folder, as far as it belongs to the exported checkpoint.

    Attributes:
        record: the run; without test figures where these are of another checkpoint.
        counts: what `row_counts` returned; empty where the run stored none.
        stage: that the exported checkpoint is of; None where its path does not say it.
        step: of the exported checkpoint; None likewise.
    """

    record: RunRecord
    counts: Mapping[str, Any]
    stage: int | None
    step: int | None

    @property
    def metrics(self) -> Mapping[str, Any]:
        """metrics.json of the exported checkpoint; empty where it was not evaluated."""
        return self.record.metrics

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that may be told to anyone, by dotted name."""
        stored = self.record.settings
        return {name: stored[name] for name in _told_settings(stored) if stored.get(name) is not None}

    @property
    def stages(self) -> list[str]:
        """A line for each stage that the exported weights went through: steps, the checkpoint chosen and its score.

        A score is told only where the weights are those of that checkpoint.
        """
        return [
            f"Stage {one.number}: {stage_summary(one, self.step if one.number == self.stage else None)}."
            for one in self.record.stages
            if one.last_step and one.number <= (self.stage or 0)
        ]

    @property
    def is_first_stage(self) -> bool:
        """Whether this is a model after stage 1, which has learned rationales alone."""
        return self.stage == 1

    @property
    def is_synthetic(self) -> bool:
        """Whether the rows are the generated triage notes."""
        return self.record.settings.get("data.source") == "triage"

    @property
    def hub_dataset(self) -> str | None:
        """The data set on the Hub that the rows came from."""
        path = str(self.record.settings.get("data.path") or "")
        return (
            path.removeprefix(_HUB_ROWS).split(":")[0].partition("@")[0]
            if path.startswith(_HUB_ROWS)
            else None
        )

    @property
    def hub_model(self) -> str | None:
        """The model on the Hub that training began with; None where that is not certain."""
        init = self.record.settings.get("model.init")
        return init if _is_from_hub(init) else None

    @property
    def scorer(self) -> str:
        """How the model of BERTScore is called: by its name where that is certainly one on the Hub; "": no score."""
        score = self.metrics.get("bertscore")
        if not score:
            return ""
        return str(score["model"]) if _is_from_hub(score["model"]) else "a model not named here"


def _is_from_hub(model: object) -> TypeGuard[str]:
    if not isinstance(model, str) or pathlib.Path(model).expanduser().exists():
        return False
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        # A name that was fetched lies in the Hub's cache; a path of another folder than this one does not.
        return isinstance(huggingface_hub.try_to_load_from_cache(model, HF_CONFIG), str)
    except HFValidationError:
        return False


def read_facts(folder: pathlib.Path, source: str, label_decode: str | None = None) -> RunFacts | None:
    """What the run in a folder tells of one of its checkpoints.

    Args:
        folder: with the model card.
        source: of the loaded model; the run's test figures count only where they are of the same checkpoint.
        label_decode: of its card; they count only where labels were decoded so. None: however that was.

    Returns:
        The facts; None where the folder is no run.

    Raises:
        UserError: a file of the run is damaged.
    """
    if not (folder / RUN_STATE).is_file():
        return None
    record = read_run(folder)
    evaluated, exported = (_CHECKPOINT.search(_posix(path)) for path in (record.metrics.get("model"), source))
    decoded = record.metrics.get("label_decode", label_decode)
    same = evaluated is not None and exported is not None and evaluated[1] == exported[1]
    if not same or label_decode not in (None, decoded):
        record = dataclasses.replace(record, metrics={}, predictions=())
    stage, step = (int(exported[2]), int(exported[3])) if exported else (None, None)
    return RunFacts(record, _counts(folder / ROW_COUNTS), stage, step)


def _posix(path: object) -> str:
    return str(path or "").replace("\\", "/")


def _counts(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    whole = isinstance(stored, dict) and {"rows", "labels"} <= stored.keys()
    return stored if whole else {}
