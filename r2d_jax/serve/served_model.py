"""A model and its queue; in: texts as ids of few widths, batch by batch, out: labels, probabilities and rationales."""

import dataclasses
import itertools
import pathlib
import warnings
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from r2d_jax.config import MeshConfig
from r2d_jax.data.features import Features
from r2d_jax.data.schema import Example
from r2d_jax.evaluation.apply import predictor_of
from r2d_jax.evaluation.calibration import Calibration, label_probabilities, load_calibration
from r2d_jax.evaluation.label_scoring import LabelScorer, scores_of
from r2d_jax.evaluation.metrics import normalise_label
from r2d_jax.evaluation.model_folder import LoadedModel, ModelCard, find_model_folder, load_model
from r2d_jax.evaluation.predict import Prediction, Predictor, all_of
from r2d_jax.runtime.devices import enable_compile_cache
from r2d_jax.runtime.mesh import make_mesh
from r2d_jax.serve.limits import Refused
from r2d_jax.serve.shapes import batch_sizes, question_widths, smallest_that_holds

Task = Literal["full", "label", "given"]


class Group(NamedTuple):
    """What can be computed together.

    Attributes:
        task: full: label and rationale; label: without rationale; given: the rationale under a given label.
        width: Q of the question.
    """

    task: Task
    width: int


@dataclasses.dataclass(frozen=True)
class ServedNote:
    """One note, ready for the model.

    Attributes:
        group: with which other notes it can be computed.
        question_ids: int32 [n], n <= group.width.
        label_ids: int32 [m], end token included; empty where no label is given.
        tokens: of the whole note.
        lost: characters of the note that the vocabulary lacks.
    """

    group: Group
    question_ids: np.ndarray
    label_ids: np.ndarray
    tokens: int
    lost: int = 0

    @property
    def cut(self) -> bool:
        """Whether the end of the note was left out."""
        return self.tokens > len(self.question_ids)


class Outcome(NamedTuple):
    """What the model says of one note.

    Attributes:
        prediction: label and rationale; under a given label the rationale alone.
        probabilities: float [K] over the label set, sum 1; None without a label set.
    """

    prediction: Prediction
    probabilities: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A loaded model with its compiled shapes; `work` is called by one thread.

    Attributes:
        name: of the folder, without its path.
        model: weights, card and tokenizer.
        predictor: decodes labels and rationales.
        scorer: scores the labels of the label set; None where the model has none.
        calibration: of the model folder; None where it was not calibrated.
        widths: of questions, in tokens, narrowest first.
        sizes: of batches, smallest first.
    """

    name: str
    model: LoadedModel
    predictor: Predictor
    scorer: LabelScorer | None
    calibration: Calibration | None
    widths: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def open(cls, path: pathlib.Path, *, batch_size: int, widths: int) -> "ServedModel":
        """Load a run, exported or imported folder on one device; compiles nothing yet.

        Args:
            path: the folder.
            batch_size: most notes computed at once.
            widths: most widths to compile.

        Raises:
            UserError: no usable model there, or its calibration is of another label set.
        """
        enable_compile_cache()
        folder = find_model_folder(path)
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        model = load_model(path, mesh)
        predictor = predictor_of(model, mesh, model.card.label_decode)
        encoder, labels = predictor.encoder, model.card.labels
        return cls(
            folder.name,
            model,
            predictor,
            LabelScorer(predictor, labels) if labels else None,
            _calibration(folder, model) if labels else None,
            question_widths(encoder.question_limit, encoder.prompts.overhead, widths),
            batch_sizes(batch_size),
        )

    @property
    def card(self) -> ModelCard:
        """What the folder says about the model."""
        return self.model.card

    @property
    def follows_labels(self) -> bool:
        """Whether a rationale can be asked for under another label."""
        return self.predictor.programs.rationale_prompt == "given_label"

    def known_label(self, label: str) -> str:
        """The label of the set that is meant, as the set spells it; any label where there is no set.

        Raises:
            Refused: it is not in the set.
        """
        if not self.card.labels:
            return label.strip()
        for known in self.card.labels:
            if normalise_label(known) == normalise_label(label):
                return known
        raise Refused(422, "unknown_label", "label: is not in the label set of this model.")

    def prepare(self, text: str, *, explain: bool = True, label: str = "") -> ServedNote:
        """Token ids of a note, cut at the limit of the model; may be called by any thread.

        Args:
            text: question and context as one text.
            explain: whether a rationale is wanted.
            label: the label to explain; "": the predicted one.

        Raises:
            Refused: a given label is not in the set, or longer than the model can take.
        """
        encoder = self.predictor.encoder
        given = self.known_label(label) if label else ""
        examples = [Example("", text, given, {})]
        rows = encoder.encode(examples, None)
        ids, label_ids = (np.asarray(one.row(0), np.int32) for one in (rows.question, rows.label))
        if len(label_ids) > encoder.label_tokens:
            raise Refused(422, "long_label", f"label: is longer than {encoder.label_tokens} tokens.")
        kept = ids[: self.widths[-1]]
        task: Task = "given" if label else "full" if explain and self.predictor.explains else "label"
        group = Group(task, smallest_that_holds(self.widths, len(kept)))
        lost = int(encoder.lost_characters(examples, rows)[0])
        return ServedNote(group, kept, label_ids, len(ids), lost)

    def work(self, group: Hashable, items: Sequence[ServedNote]) -> list[Outcome]:
        """Outcomes of at most sizes[-1] notes of one group, in their order."""
        assert isinstance(group, Group)
        size = smallest_that_holds(self.sizes, len(items))
        features, params = self._features(items, group.width), self.model.params
        if group.task == "given":
            texts = all_of(self.predictor.explain(params, features, size))
            return [Outcome(Prediction("", True, 1.0, text)) for text in texts]
        rationales = group.task == "full"
        score = None if self.scorer is None else self.scorer.score_labels
        predictions = all_of(
            self.predictor.predict(params, features, size, rationales=rationales, score=score)
        )
        if self.scorer is None:
            return [Outcome(prediction) for prediction in predictions]
        scores = scores_of(predictions, len(self.scorer.labels))
        temperature = 1.0 if self.calibration is None else self.calibration.temperature
        probabilities = label_probabilities(scores, temperature)
        return [Outcome(*pair) for pair in zip(predictions, probabilities, strict=True)]

    def _features(self, items: Sequence[ServedNote], width: int) -> Features:
        label_width = self.predictor.encoder.label_tokens
        nothing = np.zeros((len(items), 1), np.int32)
        return Features(
            _padded([item.question_ids for item in items], width),
            np.array([len(item.question_ids) for item in items], np.int32),
            _padded([item.label_ids for item in items], label_width),
            np.array([len(item.label_ids) for item in items], np.int32),
            nothing,
            nothing[:, 0],
            cut_questions=0,
            cut_rationales=0,
        )

    def warm(self) -> None:
        """Compile every shape by using it once."""
        task: Task = "full" if self.predictor.explains else "label"
        word = np.full(1, self.model.tokenizer.unk_id, np.int32)
        for width, size in itertools.product(self.widths, self.sizes):
            item = ServedNote(Group(task, width), word, word[:0], 1)
            self.work(item.group, [item] * size)


def _calibration(folder: pathlib.Path, model: LoadedModel) -> Calibration | None:
    found = load_calibration(folder, model.source)
    decode = model.card.label_decode
    if found is None or found.label_decode == decode or found.target_risk is None:
        return found
    warnings.warn(
        f"{folder.name}: the threshold of its calibration is for label_decode={found.label_decode}, and labels are "
        f"decoded {decode}, so the model never abstains",
        stacklevel=3,
    )
    return dataclasses.replace(found, threshold=None, target_risk=None)


def _padded(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    padded = np.zeros((len(rows), width), np.int32)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded
