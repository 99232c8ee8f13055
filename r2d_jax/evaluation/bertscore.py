"""BERTScore through the optional bert-score package; in: generated and gold texts, out: a dict of figures."""

import csv
import importlib
import pathlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from r2d_jax.data.mentions import check_same_rows, fold_white_space
from r2d_jax.errors import UserError

_UNLIMITED_TOKENS = 1_000_000
# These count positions from the padding id on, so the first pad_token_id + 1 positions hold no token.
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "camembert", "longformer", "mpnet", "roberta-prelayernorm"}
)
_DEFAULT_TOKENS = 512
_INSTALL = "Install it with: pip install bert-score==0.3.13"


def bertscore_rows(
    predicted: Sequence[str],
    references: Sequence[str],
    model: str | pathlib.Path,
    num_layers: int | None = None,
    *,
    max_tokens: int | None = None,
    rescale: bool = False,
    baseline_path: pathlib.Path | None = None,
    batch_size: int = 32,
) -> tuple[dict[str, Any], np.ndarray]:
    """BERTScore of generated texts against one reference each.

    Args:
        predicted: N generated texts.
        references: N gold texts.
        model: hub name or folder of the scoring model.
        num_layers: layer whose output is compared; None: bert-score's choice, known for some hub names.
        max_tokens: tokens, special ones included, beyond which texts are cut; None: what the model states.
        rescale: linear rescaling against a baseline file (columns LAYER,P,R,F, a row per layer from 0).
        baseline_path: that file; None: the one bert-score ships for the model and English.
        batch_size: texts scored at once.

    Returns:
        The figures below, and the F1 of each row, float64 [N].
        precision, recall, f1: means over all N rows. A row with an empty text on either side never reaches
            the model and counts as 0, rescaled or not.
        empty_predictions, empty_references, truncated_predictions, truncated_references, rows: counts.
        model, num_layers, max_tokens, rescaled, baseline, hash, version: the settings of the figures;
            hash is the library's own text for them.

    Raises:
        UserError: bert-score is missing, row counts differ, no rows, a model that cannot be loaded, no layer
            known for the model, a length beyond the model's, or rescaling without a baseline.
    """
    rows = check_same_rows(predictions=predicted, references=references)
    name = str(model)
    scorer, layer, baseline = load_scorer(name, num_layers, rescale=rescale, baseline_path=baseline_path)
    outputs = [fold_white_space(text) for text in predicted]
    golds = [fold_white_space(text) for text in references]
    pairs = [(o, g) for o, g in zip(outputs, golds, strict=True) if o and g]
    # The scorer says neither of them in public.
    tokenizer, config = scorer._tokenizer, scorer._model.config  # noqa: SLF001
    limit = _token_limit(tokenizer, config, name, max_tokens)
    # The library cuts at the tokenizer's limit, which many tokenizers do not state.
    tokenizer.model_max_length = limit
    scored = np.zeros((3, rows))
    if pairs:
        filled = [bool(o and g) for o, g in zip(outputs, golds, strict=True)]
        scores = scorer.score([o for o, _ in pairs], [g for _, g in pairs], batch_size=batch_size)
        scored[:, filled] = [values.double().numpy() for values in scores]
    precision, recall, f1 = (float(value) for value in scored.mean(axis=1))
    figures = {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "empty_predictions": outputs.count(""),
        "empty_references": golds.count(""),
        "truncated_predictions": _too_long(tokenizer, outputs, limit),
        "truncated_references": _too_long(tokenizer, golds, limit),
        "rows": rows,
        "model": name,
        "num_layers": layer,
        "max_tokens": limit,
        "rescaled": rescale,
        "baseline": str(baseline) if baseline else None,
        # Release 0.3.13 of the library calls itself 0.3.12 in its hash, hence the versions beside it.
        "hash": str(scorer.hash),
        "version": ", ".join(
            f"{package} {metadata.version(package)}" for package in ("bert-score", "transformers")
        ),
    }
    return figures, scored[2]


def load_scorer(
    name: str,
    num_layers: int | None = None,
    *,
    rescale: bool = False,
    baseline_path: pathlib.Path | None = None,
) -> tuple[Any, int, pathlib.Path | None]:
    """The loaded scorer, the layer whose output it compares, and its baseline file where it rescales.

    Args and Raises as `bertscore_rows`.
    """
    try:
        library = importlib.import_module("bert_score")
    except ImportError as error:
        raise UserError("bertscore", f"cannot import bert-score ({error})", _INSTALL) from error
    layer = _layer(name, num_layers)
    baseline = _baseline(library, name, layer, baseline_path) if rescale else None
    return _scorer(library, name, layer, baseline), layer, baseline


def _layer(name: str, num_layers: int | None) -> int:
    known = importlib.import_module("bert_score.utils").model2layers
    layer = num_layers if num_layers is not None else known.get(name)
    if layer is None:
        raise UserError(
            "num_layers", f"bert-score knows no layer for {name}", "Give the number of layers to use."
        )
    return int(layer)


def _baseline(library: Any, name: str, layer: int, path: pathlib.Path | None) -> pathlib.Path:
    shipped = pathlib.Path(library.__file__).parent / "rescale_baseline" / "en" / f"{name.lstrip('/')}.tsv"
    file = path or shipped
    if not file.is_file():
        raise UserError(
            "rescale",
            f"there is no baseline file {file}",
            "Give a baseline file for this model, or do not rescale.",
        )
    with file.open(encoding="utf-8", newline="") as lines:
        layers = [row["LAYER"] for row in csv.DictReader(lines) if "LAYER" in row]
    # The library takes the row by position, so a file that starts elsewhere would rescale by another layer.
    if layer >= len(layers) or layers[layer].strip() != str(layer):
        raise UserError(
            str(file),
            f"has no row for layer {layer} at its place",
            "Columns LAYER,P,R,F, a row per layer from 0.",
        )
    return file


def _scorer(library: Any, name: str, layer: int, baseline: pathlib.Path | None) -> Any:
    try:
        return library.BERTScorer(
            model_type=name,
            num_layers=layer,
            lang="en",
            rescale_with_baseline=baseline is not None,
            baseline_path=str(baseline) if baseline else None,
        )
    except AssertionError as error:
        raise UserError("num_layers", str(error), "Choose a layer the model has.") from error
    # A hub, a damaged file and weights of another shape each fail in a way of their own.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            name, f"the scoring model cannot be loaded ({reason})", "Check its name or folder."
        ) from error


def _token_limit(tokenizer: Any, config: Any, name: str, asked: int | None) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in _OFFSET_POSITIONS:
        positions -= config.pad_token_id + 1
    stated = tokenizer.model_max_length if tokenizer.model_max_length < _UNLIMITED_TOKENS else None
    limits = [limit for limit in (stated, positions) if limit and limit > 0]
    if asked is None:
        return int(min(limits, default=_DEFAULT_TOKENS))
    if limits and asked > min(limits):
        raise UserError(
            "max_tokens",
            f"{asked} is more than the {min(limits)} of {name}",
            "Lower it, or use another model.",
        )
    return asked


def _too_long(tokenizer: Any, texts: Sequence[str], limit: int) -> int:
    return sum(len(tokenizer.encode(text, truncation=False, verbose=False)) > limit for text in texts if text)
