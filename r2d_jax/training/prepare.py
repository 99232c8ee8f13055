"""All that a run needs before its first step; in: Config and Workdir, out: checked data, tokenizer and model shape."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
from jax.sharding import Mesh

from r2d_jax.config import Config, T5Config
from r2d_jax.config_check import rationale_source, stage_configs, used_sources
from r2d_jax.data.check.labels import looks_like_text
from r2d_jax.data.check.verdict import check_before_run
from r2d_jax.data.features import FeatureEncoder, Features, Shapes, question_text
from r2d_jax.data.pace import paced
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT
from r2d_jax.data.schema import Example, Splits, any_rationale
from r2d_jax.data.splits import NAMES, content_hash, label_set, splits_of_run
from r2d_jax.data.tokenizer import SETTINGS_FILE, Tokenizer, tokenizer_folder
from r2d_jax.errors import UserError
from r2d_jax.evaluation.calibrate import left_out
from r2d_jax.evaluation.model_folder import (
    WEIGHTS_FOLDER,
    ModelCard,
    place_params,
    read_card,
    require_shape,
)
from r2d_jax.evaluation.ordinal import scale_of
from r2d_jax.evaluation.predict import Predictor
from r2d_jax.evaluation.scoring import require_scorer
from r2d_jax.methods import METHODS
from r2d_jax.model.hf_format import locate, read_hf_config, read_hf_folder
from r2d_jax.model.label_trie import LabelTrie, label_trie
from r2d_jax.model.parameters import Params, T5Factory
from r2d_jax.runtime.checkpoint_files import restore_params
from r2d_jax.runtime.distributed import is_writer, require_same, wait_for_all
from r2d_jax.runtime.files import write_text, write_texts
from r2d_jax.runtime.mesh import check_batch_sizes, tree_shardings, with_shardings
from r2d_jax.runtime.run_files import MODEL_CARD
from r2d_jax.training.objectives import StepContext
from r2d_jax.training.stage_features import StageFeatures, encoded_stages
from r2d_jax.training.state import seed_key
from r2d_jax.training.tokens import tokenise
from r2d_jax.training.workdir import Workdir

_VOCAB_MULTIPLE = 128


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
        data_hash: content hash of the rows.
        notes: lines about the data check and the token cache, without case text.
        label_trie: of the label set, where label_decode is constrained.
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
    data_hash: str
    notes: tuple[str, ...]
    label_trie: LabelTrie | None = None

    @property
    def context(self) -> StepContext:
        """What the training steps are compiled around."""
        config = self.config
        return StepContext(
            self.factory,
            self.encoder.prompts,
            self.tokenizer.size,
            config.donate_buffers,
            label_trie=self.label_trie,
        )

    @property
    def card(self) -> ModelCard:
        """The model card of the run."""
        return ModelCard(
            shape=self.factory.config,
            labels=self.labels,
            label_tokens=self.shapes.label,
            input_limit_tokens=self.config.data.input_limit_tokens,
            rationale_tokens=self.rationale_tokens,
            compute_dtype=self.config.model.compute_dtype,
            tokenizer_fingerprint=self.tokenizer.fingerprint,
            columns=self.config.data.columns,
            rationale_prompt=METHODS[self.config.method].rationale_prompt,
            label_map=self.config.data.label_map,
            label_decode=self.config.label_decode,
            rationale_source=self.sources[2],
        )

    @property
    def rationale_tokens(self) -> int:
        """Longest generated rationale."""
        return self.config.evaluation.rationale_decode_tokens or self.config.data.rationale_limit_tokens

    def predictor(self) -> Predictor:
        """Decoding with the shapes of this run."""
        return Predictor.of(
            self.factory,
            self.encoder,
            self.rationale_tokens,
            METHODS[self.config.method].rationale_prompt,
            self.mesh,
            self.label_trie,
        )

    def initial_params(self) -> Params:
        """Weights of model.init, or random ones from the seed."""
        init = self.config.model.init
        if init is not None:
            return load_initial(init, self.factory, self.mesh)
        shardings = tree_shardings(self.factory.abstract_params, self.mesh)
        return jax.jit(self.factory.init, out_shardings=shardings)(seed_key(self.config.seed))


def init_shape(init: str) -> T5Config:
    """Shape of the weights that model.init names.

    Raises:
        UserError: no readable model there, or its card does not fit its config.json.
    """
    folder = locate(init)
    if (folder / WEIGHTS_FOLDER).is_dir():
        return read_card(folder).shape
    shape = read_hf_config(folder)
    if (folder / MODEL_CARD).is_file():
        require_shape(folder, read_card(folder), shape)
    return shape


def load_initial(init: str, factory: T5Factory, mesh: Mesh) -> Params:
    """Weights of a Hugging Face folder, hub name or `r2d import` folder, on the devices."""
    folder = locate(init)
    if (folder / WEIGHTS_FOLDER).is_dir():
        return restore_params(folder / WEIGHTS_FOLDER, with_shardings(factory.abstract_params, mesh))
    return place_params(read_hf_folder(folder)[1], mesh)


def _tokenizer(
    config: Config, workdir: Workdir, train: Sequence[Example], sources: Sequence[str]
) -> Tokenizer:
    # Its settings are written after it. Without them, as after a kill between the two, it would be loaded with the text
    # map, whatever the config says.
    if all((workdir.tokenizer / name).is_file() for name in ("tokenizer.json", SETTINGS_FILE)):
        return Tokenizer.load(workdir.tokenizer)
    path = config.tokenizer.path or config.model.init
    if path is not None:
        return Tokenizer.load(tokenizer_folder(locate(path)), text_map=config.tokenizer.text_map)
    texts = itertools.chain([PREDICT, EXPLAIN, GIVEN_LABEL], _texts(train, sources))
    return Tokenizer.train(texts, config.tokenizer.train_vocab_size, config.tokenizer.text_map)


def _check_same_tokenizer(workdir: Workdir, tokenizer: Tokenizer) -> None:
    # Going on with other ids would spoil the checkpoints, and the run would only be refused at its end.
    if not (workdir.started and (workdir.path / MODEL_CARD).is_file()):
        return
    if not tokenizer.has_fingerprint(read_card(workdir.path).tokenizer_fingerprint):
        raise UserError(
            str(workdir.tokenizer),
            "is not the tokenizer that this run began with",
            "Restore its tokenizer.json, or choose a new --workdir; nothing was changed.",
        )


def _texts(rows: Iterable[Example], sources: Sequence[str]) -> Iterator[str]:
    for row in rows:
        yield question_text(row)
        yield row.label
        yield from (row.rationales[name] for name in sources)


def vocabulary_rows(tokens: int) -> int:
    """Rows of the embedding of a model from scratch, for a vocabulary of so many tokens."""
    return -(-tokens // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE


def _model_shape(config: Config, tokenizer: Tokenizer) -> T5Config:
    rate = config.model.shape.dropout_rate
    if config.model.init is None:
        return dataclasses.replace(config.model.shape, vocab_size=vocabulary_rows(tokenizer.size))
    shape = dataclasses.replace(init_shape(config.model.init), dropout_rate=rate)
    if tokenizer.size > shape.vocab_size:
        raise UserError(
            "tokenizer",
            f"it has {tokenizer.size} ids and the model's embedding {shape.vocab_size} rows",
            "Use the tokenizer that belongs to model.init.",
        )
    return shape


def _checked_rows(config: Config, report: Callable[[str], None]) -> tuple[Splits, str]:
    """The rows, the same in all processes, and their content hash."""
    splits = splits_of_run(config, paced(report, "reading"))
    data_hash = content_hash(splits)
    # A path may be another file on each machine.
    require_same("rows", [data_hash.encode()])
    return splits, data_hash


def _checked_tokenizer(
    config: Config, workdir: Workdir, train: Sequence[Example], sources: Sequence[str]
) -> Tokenizer:
    """The tokenizer, the same in all processes and as the run began with."""
    tokenizer = _tokenizer(config, workdir, train, sources)
    # Nobody saves it before all have loaded or trained it.
    require_same("vocabulary entries", [tokenizer.fingerprint.encode()])
    _check_same_tokenizer(workdir, tokenizer)
    return tokenizer


def _checked_labels(config: Config, splits: Splits) -> tuple[tuple[str, ...], bool]:
    """The label set, and whether errors must hide it; settings that do not fit it must not come to light later."""
    labels = label_set(splits)
    # Of a wrong column, also where data.check lets it pass, errors must not name what it holds.
    hide_labels = looks_like_text(labels, sum(len(getattr(splits, name)) for name in NAMES))
    left_out(config.evaluation, labels)
    if config.evaluation.triage is not None:
        scale_of(config.evaluation.triage, labels, hide_labels=hide_labels)
    return labels, hide_labels


def _require_rationales(config: Config, splits: Splits) -> None:
    """Where rows may lack a rationale: some to learn and to select by have to be there, of each stage's source."""
    if config.data.missing_rationales != "keep" or not METHODS[config.method].explains:
        return
    for source in used_sources(config):
        for name in ("train", "validation"):
            if not any_rationale(getattr(splits, name), source):
                raise UserError(
                    f"data.columns.rationales.{source}",
                    f"no row of the {name} split has such a rationale",
                    "Fill some in, or train labels alone (method=sft).",
                )


def _write_card(workdir: Workdir, prepared: Prepared) -> None:
    """Store tokenizer and model card beside the run, where they are not yet."""
    of_tokenizer = (workdir.tokenizer / name for name in ("tokenizer.json", SETTINGS_FILE))
    written = (workdir.path / MODEL_CARD, *of_tokenizer)
    if is_writer() and not all(path.is_file() for path in written):
        write_texts(workdir.tokenizer, prepared.tokenizer.files())
        write_text(workdir.path / MODEL_CARD, prepared.card.to_json())
    wait_for_all("card written")


def _silent(line: str) -> None:
    pass


def prepare(
    config: Config, workdir: Workdir, mesh: Mesh, report: Callable[[str], None] = _silent
) -> Prepared:
    """Load and check everything; nothing is trained yet.

    Args:
        config: of the run.
        workdir: of the run.
        mesh: devices.
        report: takes lines about how far long parts have come.

    Raises:
        UserError: anything wrong in config or data; also when the data changed since the run began, or a process
            has others.
    """
    workdir.check(config)
    check_batch_sizes(config, mesh)
    sources = {number: rationale_source(config, stage) for number, stage in stage_configs(config).items()}
    names = used_sources(config)
    splits, data_hash = _checked_rows(config, report)
    tokenizer = _checked_tokenizer(config, workdir, splits.train, names)
    # Before the encoder, which refuses the first label that is at fault: the check tells of all.
    _, check_lines = check_before_run(config.data, splits, tokenizer, names, paced(report, "data check"))
    labels, hide_labels = _checked_labels(config, splits)
    _require_rationales(config, splits)
    if sources[2] is not None and not workdir.finished:
        require_scorer(config.evaluation.bertscore)
    factory = T5Factory.configured(_model_shape(config, tokenizer), config.model)
    encoder = FeatureEncoder(config.data, tokenizer, labels, hide_labels=hide_labels)
    constrained = config.label_decode == "constrained"
    trie = label_trie(labels, tokenizer, hide_labels=hide_labels) if constrained else None
    # Nothing that is wrong is left to find, so files may be written from here on.
    workdir.start(config, data_hash)
    rows = {name: getattr(splits, name) for name in NAMES}
    tokens, token_line = tokenise(workdir.tokens, encoder, rows, names, data_hash=data_hash, report=report)
    shapes, stages, test = encoded_stages(config, workdir, encoder, tokens, sources)
    if config.stage2.class_weights == "balanced":
        stages[2] = stages[2].with_balanced_labels(splits.train)
    prepared = Prepared(
        config=config,
        splits=splits,
        labels=labels,
        tokenizer=tokenizer,
        factory=factory,
        encoder=encoder,
        shapes=shapes,
        stages=stages,
        test=test,
        mesh=mesh,
        sources=sources,
        data_hash=data_hash,
        notes=(*check_lines, token_line),
        label_trie=trie,
    )
    _write_card(workdir, prepared)
    return prepared
