"""Small models that several tests share; in: a shape, out: weights and logits, ours and torch's."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2d_jax.config import T5Config
from r2d_jax.model.hf_format import write_hf_folder
from r2d_jax.model.parameters import Params, T5Factory, flatten, unflatten

TOLERANCE = 1e-4
SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "d_ff": 24,
    "d_kv": 6,
    "num_heads": 3,
    "num_layers": 2,
}
SHAPES = {
    "tied_relu": T5Config(**SMALL, num_decoder_layers=1),
    "untied_gated": T5Config(
        **SMALL, num_decoder_layers=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
}


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread, as handing work over costs more than such small work."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """For every test of a file that imports it."""
    with single_threaded():
        yield


@pytest.fixture(params=list(SHAPES))
def config(request: pytest.FixtureRequest) -> T5Config:
    """Each of SHAPES."""
    return SHAPES[request.param]


@pytest.fixture
def folder(tmp_path: pathlib.Path, config: T5Config) -> pathlib.Path:
    """A Hugging Face folder of each shape."""
    write_hf_folder(tmp_path / "model", config, random_weights(config), generation={})
    return tmp_path / "model"


@pytest.fixture
def tied(tmp_path: pathlib.Path) -> pathlib.Path:
    """One of the shape whose head is the embedding."""
    shape = SHAPES["tied_relu"]
    write_hf_folder(tmp_path / "tied", shape, random_weights(shape), generation={})
    return tmp_path / "tied"


def random_weights(config: T5Config, seed: int = 0) -> Params:
    """Random float32 weights of a shape."""
    rng = np.random.default_rng(seed)
    return unflatten(
        {
            name: (rng.normal(size=leaf.shape) * 0.5).astype(np.float32)
            for name, leaf in flatten(T5Factory(config).abstract_params).items()
        }
    )


def bitwise_equal(ours: Params, theirs: Params) -> bool:
    """Whether both are float32 weights with the same names, shapes and bits."""
    left, right = flatten(ours), flatten(theirs)
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype == np.float32
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


def two_rows(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Input ids [2, 150], one row padded with 0, and decoder ids [2, 20], int32."""
    rng = np.random.default_rng(1)
    ids = rng.integers(2, vocab_size, (2, 150)).astype(np.int32)
    ids[1, 11:] = 0
    return ids, rng.integers(2, vocab_size, (2, 20)).astype(np.int32)


def our_logits(config: T5Config, params: Params, ids: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
    """Our float32 logits [B, T, V]."""

    @jax.jit
    def run(params: Params) -> jax.Array:
        model = T5Factory(config).merge(params)
        mask = jnp.asarray(ids != 0, jnp.int32)
        return model.decode(jnp.asarray(decoder_ids), model.encode(jnp.asarray(ids), mask), mask)

    return np.asarray(run(params))


def torch_logits(
    folder: pathlib.Path, ids: np.ndarray, decoder_ids: np.ndarray, **settings: object
) -> np.ndarray:
    """Torch's logits [B, T, V] from a folder that must load with every name in its place."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, info = transformers.T5ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, local_files_only=True, **settings
    )
    assert not info["missing_keys"], info
    assert not info["unexpected_keys"], info
    assert not info["mismatched_keys"], info
    with torch.no_grad():
        return (
            model.eval()(
                input_ids=torch.tensor(ids, dtype=torch.long),
                attention_mask=torch.tensor(ids != 0, dtype=torch.long),
                decoder_input_ids=torch.tensor(decoder_ids, dtype=torch.long),
            )
            .logits.float()
            .numpy()
        )
