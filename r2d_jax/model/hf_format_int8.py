"""Weights as int8; in: float32 tensors by Hugging Face name, out: those of the compressed-tensors format."""

import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

SCALE_SUFFIX = "_scale"
"""`NAME.weight` of type int8 stands for float32 `NAME.weight * NAME.weight_scale`."""

INT8_CONFIG: Mapping[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    # Else the weights stay int8 until the model's own forward is called, and `generate` calls the encoder's first.
    "dequantize": True,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            # Else compressed-tensors would look for weights packed four to a word.
            "format": "int-quantized",
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
        }
    },
    "ignore": ["lm_head"],
}
"""`quantization_config` of config.json, by which transformers knows how to read the weights."""

_LINEAR = re.compile(r"\.block\.\d+\.layer\.\d+\.\w+\.(q|k|v|o|wi|wi_0|wi_1|wo)\.weight$")
_EMBEDDINGS = ("shared.weight", "lm_head.weight")
_LARGEST = 127


def to_int8(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round each output's weights to whole steps of their own; symmetric, so that 0 stays 0.

    Args:
        weight: float32 [outputs, inputs].

    Returns:
        int8 [outputs, inputs], -127 to 127, and the steps, float32 [outputs, 1]; their product is off by at most
        half a step.
    """
    scale = (np.abs(weight).max(axis=1, keepdims=True) / _LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    return np.clip(np.rint(weight / scale), -_LARGEST, _LARGEST).astype(np.int8), scale


def int8_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices of attention and feed-forward as int8, embedding and head as bfloat16, norms and biases as they are.

    Args:
        tensors: float32 arrays by Hugging Face name.
    """
    stored: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if _LINEAR.search(name):
            stored[name], stored[name + SCALE_SUFFIX] = to_int8(array)
        else:
            stored[name] = array.astype(ml_dtypes.bfloat16) if name in _EMBEDDINGS else array
    return stored
