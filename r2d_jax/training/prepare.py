"""All that a run needs before its first step; in: Config and Workdir, out: checked data, tokenizer and model shape."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from r2d_jax.config import Config, T5Config
from r2d_jax.config_check import rationale_source, stage_configs, used_sources
from r2d_jax.data.buckets import Bucket, choose_buckets
from r2d_jax.data.features import (
    EncodedRow,
    FeatureEncoder,
    Features,
    Shapes,
    balanced_weights,
    question_text,
)
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT
from r2d_jax.data.schema import Example, Splits
from r2d_jax.data.splits import content_hash, label_set, load_splits
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.errors import UserError
from r2d_jax.evaluation.model_folder import CARD_FILE, WEIGHTS_FOLDER, ModelCard, place_params, read_card
from r2d_jax.evaluation.predict import Predictor, RationalePrompt
from r2d_jax.model.hf_format import locate, read_hf_config, read_hf_folder
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.runtime.checkpoint import restore_weights
from r2d_jax.runtime.distributed import is_writer, wait_for_all
from r2d_jax.runtime.files import write_text
from r2d_jax.runtime.mesh import check_batch_sizes, tree_shardings, with_shardings
from r2d_jax.training.objectives import StepContext
from r2d_jax.training.workdir import Workdir

_VOCAB_MULTIPLE = 128
_RATIONALE_PROMPT: dict[str, RationalePrompt] = {"r2d": "given_label", "dss": "explain", "sft": "none"}


@dataclasses.dataclass(frozen=True)
class StageFeatures:
    """Features of one stage, with its own rationale source, and the shapes of its training batches."""

    train: Features
    validation: Features
    buckets: tuple[Bucket, ...]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run, ready to train.

    Attributes:
        config: of the run.
        splits: the rows.
        labels: the label set.
        tokenizer: the only route from text to ids.
        factory: shape and compute dtype of the model.
        encoder: tokenises further rows in the same way.
        shapes: static sizes.
        stages: features of stage 1 and 2.
        test: features of the test split.
        mesh: devices.
        sources: rationale source of each stage that the run has; None: labels only.
    """

    config: Config
    splits: Splits
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    factory: T5Factory
    encoder: FeatureEncoder
    shapes: Shapes
    stages: dict[int, StageFeatures]
    test: Features
    mesh: Mesh
    sources: dict[int, str | None]

    @property
    def context(self) -> StepContext:
        """What the training steps are compiled around."""
        prompts = self.shapes.prompt_builder(self.encoder.tokens)
        return StepContext(self.factory, prompts, self.tokenizer.size, self.config.seed)

    @property
    def card(self) -> ModelCard:
        """The model card of the run."""
        return ModelCard(
            shape=self.factory.config,
            labels=self.labels,
            label_tokens=self.shapes.label,
            input_limit_tokens=self.config.data.input_limit_tokens,
            rationale_tokens=self.rationale_tokens,
            compute_dtype=self.factory.compute_dtype,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            columns=self.config.data.columns,
            rationale_prompt=_RATIONALE_PROMPT[self.config.method],
        )

    @property
    def rationale_tokens(self) -> int:
        """Longest generated rationale."""
        return self.config.evaluation.rationale_decode_tokens or self.config.data.rationale_limit_tokens

    def predictor(self) -> Predictor:
        """Decoding with the shapes of this run."""
        return Predictor(
            self.factory,
            self.encoder,
            self.rationale_tokens,
            _RATIONALE_PROMPT[self.config.method],
            self.mesh,
        )

    def initial_params(self) -> Params:
        """Weights of model.init, or random ones from the seed."""
        init = self.config.model.init
        if init is not None:
            return load_initial(init, self.factory, self.mesh)
        shardings = tree_shardings(self.factory.abstract_params, self.mesh)
        return jax.jit(self.factory.init, out_shardings=shardings)(jax.random.key(self.config.seed))


def _init_shape(init: str) -> T5Config:
    folder = locate(init)
    return read_card(folder).shape if (folder / CARD_FILE).is_file() else read_hf_config(folder)


def load_initial(init: str, factory: T5Factory, mesh: Mesh) -> Params:
    """Weights of a Hugging Face folder, hub name or `r2d import` folder, on the devices."""
    folder = locate(init)
    if (folder / WEIGHTS_FOLDER).is_dir():
        return restore_weights(folder / WEIGHTS_FOLDER, with_shardings(factory.abstract_params, mesh))
    return place_params(read_hf_folder(folder)[1], mesh)


def _tokenizer(
    config: Config, workdir: Workdir, train: tuple[Example, ...], sources: Sequence[str]
) -> Tokenizer:
    if (workdir.tokenizer / "tokenizer.json").is_file():
        return Tokenizer.load(workdir.tokenizer)
    path = config.tokenizer.path or config.model.init
    if path is not None:
        folder = locate(path)
        inside = folder / "tokenizer"
        tokenizer = Tokenizer.load(inside if inside.is_dir() else folder, text_map=config.tokenizer.text_map)
    else:
        texts = [PREDICT, EXPLAIN, GIVEN_LABEL]
        for example in train:
            texts += [question_text(example), example.label, *(example.rationales[name] for name in sources)]
        tokenizer = Tokenizer.train(texts, config.tokenizer.train_vocab_size, config.tokenizer.text_map)
    return tokenizer


def _model_shape(config: Config, tokenizer: Tokenizer) -> T5Config:
    rate = config.model.shape.dropout_rate
    if config.model.init is None:
        rows = -(-tokenizer.size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
        return dataclasses.replace(config.model.shape, vocab_size=rows)
    shape = dataclasses.replace(_init_shape(config.model.init), dropout_rate=rate)
    if tokenizer.size > shape.vocab_size:
        raise UserError(
            "tokenizer",
            f"it has {tokenizer.size} ids and the model's embedding {shape.vocab_size} rows",
            "Use the tokenizer that belongs to model.init.",
        )
    return shape


def _stage_features(
    config: Config,
    encoder: FeatureEncoder,
    shapes: Shapes,
    train: Sequence[EncodedRow],
    validation: Sequence[EncodedRow],
) -> StageFeatures:
    features = encoder.features(train, shapes)
    buckets = choose_buckets(
        features.question_length,
        features.rationale_length,
        full=Bucket(shapes.question, shapes.rationale),
        count=config.data.length_buckets,
        prompt_tokens=encoder.tokens.overhead(shapes.label),
    )
    return StageFeatures(features, encoder.features(validation, shapes), buckets)


def prepare(config: Config, workdir: Workdir, mesh: Mesh) -> Prepared:
    """Load and check everything; nothing is trained yet.

    Raises:
        UserError: anything wrong in config or data; also when the data changed since the run began.
    """
    workdir.check(config)
    check_batch_sizes(config, mesh)
    sources = {number: rationale_source(config, stage) for number, stage in stage_configs(config).items()}
    names = used_sources(config)
    splits = load_splits(config.data, config.seed, names)
    # Nobody saves it before all have loaded or trained it.
    tokenizer = _tokenizer(config, workdir, splits.train, names)
    wait_for_all("vocabulary")
    labels = label_set(splits)
    factory = T5Factory.configured(_model_shape(config, tokenizer), config.model)
    encoder = FeatureEncoder(config.data, tokenizer, labels)
    encoded = {
        number: [encoder.encode(rows, name) for rows in (splits.train, splits.validation)]
        for number, name in sources.items()
    }
    encoded_test = encoder.encode(splits.test, sources[2])
    shapes = encoder.shapes(*(rows for pair in encoded.values() for rows in pair), encoded_test)
    stages = {number: _stage_features(config, encoder, shapes, *pair) for number, pair in encoded.items()}
    if config.stage2.class_weights == "balanced":
        weights = balanced_weights([example.label for example in splits.train])
        train = dataclasses.replace(stages[2].train, label_weight=weights)
        stages[2] = dataclasses.replace(stages[2], train=train)
    prepared = Prepared(
        config,
        splits,
        labels,
        tokenizer,
        factory,
        encoder,
        shapes,
        stages,
        encoder.features(encoded_test, shapes),
        mesh,
        sources,
    )
    first = not workdir.started
    workdir.start(config, content_hash(splits))
    if is_writer() and (first or not (workdir.path / CARD_FILE).is_file()):
        tokenizer.save(workdir.tokenizer)
        write_text(workdir.path / CARD_FILE, prepared.card.to_json())
    wait_for_all("card written")
    return prepared
