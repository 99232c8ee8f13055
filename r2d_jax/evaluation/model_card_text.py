"""README.md of an exported folder; in: model card, tokenizer, facts of the run, out: a model card for the Hub."""

import dataclasses
import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from r2d_jax import __version__
from r2d_jax.data.data_card import label_table
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.card_metadata import CardOptions, data_name, front_matter
from r2d_jax.evaluation.case_table import short
from r2d_jax.evaluation.export_readme import usage_text
from r2d_jax.evaluation.figures import class_texts
from r2d_jax.evaluation.fitted_rows import fitted_rows_told
from r2d_jax.evaluation.model_folder import ModelCard
from r2d_jax.evaluation.report import figure_notes, result_lines
from r2d_jax.evaluation.report_values import warnings_of
from r2d_jax.evaluation.run_facts import RunFacts
from r2d_jax.methods import METHODS
from r2d_jax.model.parameters import T5Factory, flatten

_FEW_ROWS, _LONGEST_CELL = 30, 100
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|~&$])")
_IMPORTED_TITLE = "T5 model"
_UNKNOWN = "how it was trained is not known here"

_INTENDED = """## Intended use

- Research{subject}, with texts like those of its training.
- Proposals that a person who is qualified to judge the case checks against the text itself before anything follows.

It is not meant for decisions without such a person, nor for texts of another kind, language or institution unless
it was evaluated on them first. It is research software and no medical device."""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([_cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    # What a label or setting spells must neither end its cell nor become markup.
    return html.escape(short(text, _LONGEST_CELL), quote=False).replace("|", "\\|")


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """What a model has learned to write, as far as it is known.

    Attributes:
        labels: whether it gives labels.
        reasons: whether it gives rationales.
    """

    labels: bool
    reasons: bool

    @property
    def are_known(self) -> bool:
        """Whether it was trained here, so that it is known what it writes."""
        return self.labels or self.reasons

    @property
    def told(self) -> str:
        """What the model is, in words."""
        if not self.are_known:
            return f"A T5 that was imported: {_UNKNOWN}."
        if not self.labels:
            return (
                "A T5 that reads a text and gives a rationale: "
                "this is the model after stage 1, which has not learned labels."
            )
        return "A T5 that reads a text and gives a label" + (
            ", then a rationale for it." if self.reasons else "."
        )

    @property
    def subject(self) -> str:
        """What research with it is on, to stand after "Research"."""
        labels = "a label and a reason for it" if self.reasons else "a label"
        told = labels if self.labels else "a reason" if self.reasons else ""
        return told and f" on models that give {told}"


def _outputs(card: ModelCard, facts: RunFacts | None) -> _Outputs:
    # Every training of ours has labels.
    if facts is None and not card.labels:
        return _Outputs(labels=False, reasons=False)
    first = facts is not None and facts.is_first_stage
    return _Outputs(labels=not first, reasons=first or card.rationale_prompt != "none")


def _limits(card: ModelCard, facts: RunFacts | None) -> Iterator[str]:
    gives, count = _outputs(card, facts), f"{len(card.labels)} labels"
    if gives.labels and card.label_decode == "constrained":
        yield f"It knows the {count} of its training. A case that fits none of them gets one of them all the same."
    elif gives.labels:
        yield f"It knows the {count} of its training; what it writes may be none of them, so compare it with the set."
    if gives.reasons:
        yield (
            "A rationale is written text and no record of how the label came about. It can sound right where the "
            "label is wrong, and can state what the input does not say."
        )
    written = f"; a rationale ends at {card.rationale_tokens} tokens" if gives.reasons else ""
    yield f"Of an input, what lies beyond {card.input_limit_tokens} tokens of prompt is not read{written}."
    yield (
        "Its weights can repeat pieces of the training text, and a vocabulary that was trained with them holds words "
        "of it. Whoever passes the model on must have the right to pass these on."
    )
    if facts is None or not facts.metrics:
        return
    yield "The figures are of one set of test rows and one training run; another set or seed gives others."
    supports = [row["support"] for row in facts.metrics.get("per_class", {}).values()]
    few = sum(support < _FEW_ROWS for support in supports)
    if few:
        none = f", {supports.count(0)} of them none" if 0 in supports else ""
        yield (
            f"{few} of {len(supports)} labels have fewer than {_FEW_ROWS} test rows{none}: "
            "their own figures say little."
        )


def _notes(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield from figure_notes(metrics)
    if (triage := metrics.get("triage")) and triage["rows_outside_order"]:
        left_out = triage["rows_outside_order"]
        yield f"triage figures: {left_out} rows have a gold label without a level and are left out"


def _figures(facts: RunFacts, dtype: str) -> Iterator[str]:
    metrics = facts.metrics
    yield "## Figures"
    told = (
        "These are figures of"
        if dtype == "float32"
        else f"This folder holds {dtype} weights. These are figures of"
    )
    notes = [f"- {note}" for note in _notes(metrics)]
    fewer = " The notes below the table say which are over fewer of them." if notes else ""
    yield f"{told} the float32 weights on {metrics.get('rows', 'the')} test rows, measured by r2d_jax.{fewer}"
    lines = list(result_lines(metrics, facts.scorer))
    with_majority = any(majority for *_, majority in lines)
    header = ["figure", "value", "95 % interval", *(["most common label, always"] if with_majority else [])]
    yield _table(header, (line[: len(header)] for line in lines))
    if notes:
        yield "\n".join(notes)
    yield (
        "Macro-F1 is over the labels that have test rows, and an output that is no label is wrong. Intervals are "
        "bootstrap intervals over the test rows; they do not tell how another training run would differ."
    )
    if (scaled := metrics.get("calibration")) and scaled.get("temperature") is not None:
        yield f"Probabilities are scaled by a temperature that was fitted to {fitted_rows_told(scaled)}."
    per_class = {
        label: row
        for label, row in metrics.get("per_class", {}).items()
        if label not in set(metrics.get("labels_outside_set", ()))
    }
    # As in a data card: of labels that may be case text none is named.
    shown = label_table({("test", label): int(row["support"]) for label, row in per_class.items()})["counts"]
    rows = [
        (label, f"{row['support']}", *class_texts(row)) for label, row in per_class.items() if label in shown
    ]
    if rows:
        yield _table(("label", "test rows", "precision", "recall", "F1"), rows)


def _method(card: ModelCard, facts: RunFacts | None) -> str:
    if facts is not None and facts.is_first_stage:
        return "for rationales alone, by the first stage of Reason2Decide (Hasan et al., arXiv 2512.20074)"
    settings = facts.settings if facts else {}
    # Without its run, only what the prompts tell is known; "r2dc" has those of "r2d".
    by_prompt = next(one for one in METHODS.values() if one.rationale_prompt == card.rationale_prompt)
    method = METHODS.get(str(settings.get("method")), by_prompt)
    without = by_prompt.two_stages and settings.get("stage1.enabled") is False
    return method.trained + (", here without the first stage" if without else "")


def _training(card: ModelCard, facts: RunFacts | None, options: CardOptions) -> Iterator[str]:
    shapes = flatten(T5Factory(card.shape, card.compute_dtype).abstract_params)
    size = sum(math.prod(leaf.shape) for leaf in shapes.values())
    shape = card.shape
    yield "## Training"
    known = _outputs(card, facts).are_known
    told = f"trained {_method(card, facts)}" if known else f"imported; {_UNKNOWN}"
    yield (
        f"T5 with {shape.num_layers} + {shape.num_decoder_layers} layers of width {shape.d_model}, {size:,} weights, "
        f"{told}. Exported by r2d_jax {__version__}."
    )
    if known or options.data_name is not None:
        yield f"Data: {data_name(facts, options)}."
    if not known:
        return
    if facts is None:
        yield "The model was not exported from the folder of its run, so figures and settings are not told here."
        return
    if counts := facts.counts:
        splits = list(counts["rows"])
        rows = [
            (label, *(f"{by.get(s, 0):,}" for s in splits))
            for label, by in counts["labels"]["counts"].items()
        ]
        more = counts["labels"]["distinct"] - len(rows)
        rows += [(f"{more} labels not named here", *[""] * len(splits))] if more else []
        yield _table(("label", *splits), [*rows, ("all", *(f"{counts['rows'][name]:,}" for name in splits))])
    if facts.stages:
        yield "\n".join(f"- {line}" for line in facts.stages)
    start = facts.hub_model or ("other weights" if facts.record.settings.get("model.init") else "random ones")
    yield f"The weights that training began with: {start}."
    yield _table(("setting", "value"), [(name, str(value)) for name, value in facts.settings.items()])


def readme_text(
    card: ModelCard,
    tokenizer: Tokenizer,
    *,
    dtype: str = "float32",
    onnx: bool = False,
    facts: RunFacts | None = None,
    options: CardOptions | None = None,
) -> str:
    """The text of README.md; its code does what `r2d predict` does.

    It holds labels (short ones), counts, figures and settings, and no text of a row.

    Args:
        card: of the model.
        tokenizer: that it was trained with.
        dtype: of the stored weights.
        onnx: whether the folder holds ONNX graphs too.
        facts: of the run; None where the model was not exported from one.
        options: of the user.
    """
    options = options or CardOptions()
    counted = facts.counts["labels"]["counts"] if facts and facts.counts else None
    gives = _outputs(card, facts)
    if not gives.are_known and options.title == CardOptions.title:
        options = dataclasses.replace(options, title=_IMPORTED_TITLE)

    def named(label: str) -> str:
        # What the table of counts does not name may be case text.
        return _MARKUP.sub(r"\\\1", short(label)) if label in (counted or ()) else "not named here"

    parts = [
        front_matter(facts, options, dtype=dtype, ours=gives.are_known),
        f"# {options.title}",
        f"{gives.told} Research software: not a medical device.",
        *((f"**{warning}**") for warning in (warnings_of(facts.record, named) if facts else ())),
        usage_text(
            card,
            tokenizer,
            dtype=dtype,
            onnx=onnx,
            counted=counted,
            first_stage=facts is not None and facts.is_first_stage,
        ),
        _INTENDED.replace("{subject}", gives.subject),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in _limits(card, facts)),
        *(_figures(facts, dtype) if facts and facts.metrics else ()),
        *_training(card, facts, options),
    ]
    licence = options.license
    parts.append("## Licence\n\n" + (f"{licence}." if licence else "None is stated: ask who published this."))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"
