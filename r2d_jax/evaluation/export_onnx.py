"""ONNX graphs of an exported model; in: a Hugging Face folder, out: graphs in onnx/, compared with torch."""

import logging
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d_jax.errors import UserError, how_to_install

if TYPE_CHECKING:
    import torch

FOLDER = "onnx"
ENCODER_FILE, DECODER_FILE = "encoder_model.onnx", "decoder_model.onnx"
TOLERANCE = 1e-4
"""Largest difference of logits, as a share of the largest logit or of 1, whichever is more."""
_GREEDY_TOKENS = 12


def require_onnx() -> None:
    """Refuse ONNX graphs where the packages that make them are missing.

    Raises:
        UserError: the extra [onnx] is not installed.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--format onnx",
            f"needs {error.name}, which is not installed",
            f"Run {how_to_install('onnx')}.",
        ) from error


def add_onnx(folder: pathlib.Path, *, vocabulary: int) -> None:
    """Write onnx/encoder_model.onnx and onnx/decoder_model.onnx, named as Optimum names them.

    The decoder takes all tokens written so far and keeps nothing between calls. Batch and lengths are free.

    Args:
        folder: with config.json and model.safetensors.
        vocabulary: ids from here on are padding rows of the embedding; the check never chooses them.

    Raises:
        UserError: the extra [onnx] is not installed, or the graphs differ from the model.
    """
    require_onnx()
    import torch
    from transformers import AutoModelForSeq2SeqLM
    from transformers.utils import logging as their_log

    their_log.disable_progress_bar()
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    target = folder / FOLDER
    target.mkdir()
    log = logging.getLogger("torch.onnx")
    level = log.level
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter warns of its own deprecated parts, and tells that torchvision is not there.
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        _write(model, target)
        _check(model, target, vocabulary)
    log.setLevel(level)


def _write(model: Any, target: pathlib.Path) -> None:
    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.get_encoder()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self,
            input_ids: torch.Tensor,
            encoder_hidden_states: torch.Tensor,
            encoder_attention_mask: torch.Tensor,
        ) -> torch.Tensor:
            return self.model(
                encoder_outputs=(encoder_hidden_states,),
                attention_mask=encoder_attention_mask,
                decoder_input_ids=input_ids,
                use_cache=False,
            ).logits

    # No size of 1 or shared by two axes: the exporter would take it for a constant.
    ids, mask, written = torch.full((2, 7), 3), torch.ones(2, 7, dtype=torch.int64), torch.full((2, 5), 3)
    hidden = torch.zeros(2, 7, model.config.d_model)
    batch, length, tokens = (torch.export.Dim(name) for name in ("batch", "input_length", "written_length"))
    inputs = {0: batch, 1: length}
    _save(
        Encoder().eval(),
        {"input_ids": ids, "attention_mask": mask},
        {"input_ids": inputs, "attention_mask": inputs},
        "last_hidden_state",
        target / ENCODER_FILE,
    )
    _save(
        Decoder().eval(),
        {"input_ids": written, "encoder_hidden_states": hidden, "encoder_attention_mask": mask},
        {
            "input_ids": {0: batch, 1: tokens},
            "encoder_hidden_states": inputs,
            "encoder_attention_mask": inputs,
        },
        "logits",
        target / DECODER_FILE,
    )


def _save(
    module: "torch.nn.Module",
    inputs: dict[str, "torch.Tensor"],
    axes: dict[str, Any],
    output: str,
    path: pathlib.Path,
) -> None:
    import torch

    program = torch.onnx.export(
        module,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=axes,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    graph = program.model.graph
    # The exporter notes for every node which lines of which files, on this machine, it comes from.
    for node in graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    parts: list[Any] = [program.model, graph, *graph.inputs, *graph.initializers.values()]
    for part in parts:
        part.metadata_props.clear()
    program.save(path)


def _check(model: Any, target: pathlib.Path, vocabulary: int) -> None:
    """Compare logits, and the greedy tokens they lead to, on random inputs of several sizes."""
    import onnxruntime
    import torch

    encoder, decoder = (
        onnxruntime.InferenceSession(target / name, providers=["CPUExecutionProvider"])
        for name in (ENCODER_FILE, DECODER_FILE)
    )
    rng = np.random.default_rng(0)
    for rows, length in ((1, 1), (1, 40), (3, 17)):
        ids = rng.integers(3, vocabulary, (rows, length))
        # The last row ends early.
        mask = np.where((np.arange(rows)[:, None] == rows - 1) & (np.arange(length) > length // 2), 0, 1)
        [encoded] = encoder.run(None, {"input_ids": ids, "attention_mask": mask})
        written = np.zeros((rows, 1), np.int64)
        for _ in range(_GREEDY_TOKENS):
            inputs = {
                "input_ids": written,
                "encoder_hidden_states": encoded,
                "encoder_attention_mask": mask,
            }
            [ours] = decoder.run(None, inputs)
            theirs = _torch_logits(model, torch.tensor(ids), torch.tensor(mask), torch.tensor(written))
            difference = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
            # Not `>`: a difference that is not a number is one too.
            if not difference <= TOLERANCE:
                raise UserError(
                    "--format onnx",
                    f"the graphs differ from the model by {difference:.2g} of its logits",
                    "Report this with the output of `r2d doctor`; nothing was written.",
                )
            chosen = theirs[:, -1, :vocabulary].argmax(axis=-1)
            written = np.concatenate([written, chosen[:, None]], axis=1)


def _torch_logits(model: Any, ids: Any, mask: Any, written: Any) -> np.ndarray:
    return model(
        input_ids=ids, attention_mask=mask, decoder_input_ids=written, use_cache=False
    ).logits.numpy()
