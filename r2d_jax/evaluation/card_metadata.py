"""The head of a model card, as the Hugging Face Hub reads it; in: facts of a run and options, out: a YAML block."""

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from r2d_jax.errors import UserError
from r2d_jax.evaluation.figures import LABEL_FIGURES, RATIONALE_FIGURES, title_of
from r2d_jax.evaluation.report_values import cell, scored_figure
from r2d_jax.evaluation.run_facts import RunFacts

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_TAGS = ("t5", "r2d_jax")
_TAGS_OF_OURS = ("t5", "reason2decide", "rationale-generation", "r2d_jax")
_LICENSE = re.compile(r"[a-z0-9]+([.+_-][a-z0-9]+)*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")


@dataclasses.dataclass(frozen=True)
class CardOptions:
    """What only the user can say in a model card.

    Attributes:
        title: of the card, and name of the model in its results.
        license: the Hub's name of a licence, such as apache-2.0, or other; None: none is stated.
        language: code of the texts' language, such as en.
        data_name: how the data are called; None: told from the run's settings.
    """

    title: str = "Reason2Decide model"
    license: str | None = None
    language: str | None = None
    data_name: str | None = None

    def check(self) -> None:
        """Refuse what the Hub would not take.

        Raises:
            UserError: a licence or language that is no name of the Hub, or a title of several lines.
        """
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise UserError(
                "--license",
                f"{self.license!r} is not written as the Hub writes licences",
                "Use a name such as apache-2.0, cc-by-nc-4.0 or other; huggingface.co/docs/hub/repositories-licenses "
                "lists them.",
            )
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise UserError(
                "--language", f"{self.language!r} is not a language code", "Use a code such as en."
            )
        for option, text in (("--title", self.title), ("--data-name", self.data_name)):
            if text is not None and (not text.strip() or len(text.splitlines()) > 1):
                raise UserError(option, "is empty or has several lines", "Give one line.")


_TASKS = {
    ("text-classification", "label"): LABEL_FIGURES,
    ("text-generation", "rationale"): RATIONALE_FIGURES,
}
"""Figures by task of the Hub, and how the task is called."""


def data_name(facts: RunFacts | None, options: CardOptions) -> str:
    """How the data are called in the card; never a path or file name of the user."""
    if options.data_name is not None:
        return options.data_name
    if facts is not None and facts.is_synthetic:
        return "synthetic triage notes of r2d_jax"
    return (facts and facts.hub_dataset) or "rows that are not published with the model"


def front_matter(facts: RunFacts | None, options: CardOptions, *, dtype: str, ours: bool) -> str:
    """The YAML block, with its lines of dashes.

    Args:
        facts: of the run; None where the model was not exported from one.
        options: of the user.
        dtype: of the stored weights. Results are stated for float32 only, which is what the run evaluated.
        ours: whether the model was trained by r2d_jax.
    """
    # The client of the Hub is slow to load, and training does without.
    from huggingface_hub import ModelCardData

    results = list(_results(facts, options)) if facts is not None and dtype == "float32" else []
    data = ModelCardData(
        language=options.language,
        license=options.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=list(_TAGS_OF_OURS if ours else _TAGS),
        base_model=facts.hub_model if facts else None,
        datasets=[facts.hub_dataset] if facts and facts.hub_dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=options.title if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _results(facts: RunFacts, options: CardOptions) -> Iterator["EvalResult"]:
    from huggingface_hub import EvalResult

    name = data_name(facts, options)
    named = [(*task, figure) for task, figures in _TASKS.items() for figure in figures if figure.hub]
    for task_type, task_name, figure in named:
        scored = scored_figure(facts.metrics, figure.name)
        if scored is None:
            continue
        ends = cell(scored, figure.unit)["interval"]
        title = title_of(figure, facts.metrics, facts.scorer)
        yield EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=facts.hub_dataset or re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "rows",
            dataset_name=name,
            dataset_split="test",
            metric_type=figure.hub,
            metric_name=f"{title} (95 % interval {ends})" if ends else title,
            metric_value=round(scored[0], 6),
        )
