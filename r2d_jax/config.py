"""Every setting of a run, typed; in: values of settings, out: frozen dataclasses, up to the Config of a run."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from r2d_jax.methods import MethodName

_strict = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
# Upper limits are far above any use, and below what overflows, allocates without end or never comes to its end; for
# a shape, which a damaged file may tell, far beyond every T5 there is (24 layers, 65,536 wide).
_Steps = Annotated[int, Field(ge=1, le=10**8)]
_Batch = Annotated[int, Field(ge=1, le=65_536)]
_MadeRows = Annotated[int, Field(ge=1, le=10**7)]
_Rows = Annotated[int, Field(ge=1, le=10**8)]
_RowsOrNone = Annotated[int, Field(ge=0, le=10**8)]
_Tokens = Annotated[int, Field(ge=2, le=65_536)]
_Axis = Annotated[int, Field(le=10**6)]
_Width = Annotated[int, Field(ge=1, le=2**20)]
_Depth = Annotated[int, Field(ge=1, le=128)]
_Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
_Decay = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Temperature = _Positive
SplitName = Literal["train", "validation", "test"]
ComputeType = Literal["float32", "bfloat16"]
LabelDecode = Literal["free", "constrained"]


def _same_split_values() -> dict[SplitName, str]:
    return {"train": "train", "validation": "validation", "test": "test"}


@dataclass(frozen=True, config=_strict)
class T5Config:
    """Shape of a T5 (1.0: relu and tied; 1.1 and Flan: gated-gelu and untied)."""

    vocab_size: Annotated[int, Field(ge=1, le=2**24)] = 32128
    """Rows of the embedding; may exceed the tokenizer's size (padding rows are never generated)."""
    d_model: _Width = 512
    d_ff: _Width = 2048
    d_kv: _Width = 64
    """Size of one head; num_heads * d_kv may differ from d_model."""
    num_heads: _Width = 8
    num_layers: _Depth = 6
    num_decoder_layers: _Depth = 6
    feed_forward_proj: Literal["relu", "gated-gelu"] = "relu"
    tie_word_embeddings: bool = True
    """True: the output head is the embedding, scaled by d_model**-0.5. False: a head of its own."""
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=2**20)] = 32
    """Half of them are for positions to the right; half of the rest hold one distance each."""
    relative_attention_max_distance: _Width = 128
    """From here on all distances share a bucket; above half of the number of buckets."""
    layer_norm_epsilon: _Positive = 1e-6
    """Added to the mean square before its root is taken."""
    dropout_rate: Fraction = 0.1
    """Share of activations that training sets to 0."""

    @model_validator(mode="after")
    def _buckets_grow(self) -> "T5Config":
        least = self.relative_attention_num_buckets // 2 + 1
        if self.relative_attention_max_distance < least:
            raise ValueError(f"relative_attention_max_distance must be at least {least}")
        return self


@dataclass(frozen=True, config=_strict)
class ModelConfig:
    """Where the weights come from and in what precision they compute."""

    init: str | None = None
    """Hugging Face folder, hub name or `r2d import` folder; null: random weights of the shape below."""
    shape: T5Config = Field(default_factory=T5Config)
    """Shape for random weights; vocab_size then follows from the tokenizer. With `init` the weights'
    own shape counts, and of this one only dropout_rate."""
    compute_dtype: ComputeType = "float32"
    """Type of activations; weights, softmax, norms and losses are always float32."""
    remat: Literal["none", "dots", "full"] = "none"
    """What the backward pass computes again to save memory: nothing, all but the outputs of weight
    multiplications, or everything inside each block. Results do not depend on it."""
    scan_layers: bool = False
    """Compile one encoder and one decoder block and loop over them: deep models compile several times faster.
    Stacks all weights once a step, in memory of its own. Results do not depend on it."""


@dataclass(frozen=True, config=_strict)
class TokenizerConfig:
    """The vocabulary."""

    path: str | None = None
    """Folder or hub name with tokenizer.json; null: taken from model.init, else trained on the train split."""
    train_vocab_size: Annotated[int, Field(ge=1, le=10**6)] = 2000
    """Pieces of a vocabulary trained here."""
    text_map: bool = True
    """Carry characters that the vocabulary lacks (such as < and >=) through written markers."""


@dataclass(frozen=True, config=_strict)
class TriageConfig:
    """The embedded generator of synthetic emergency-triage notes."""

    train_rows: _MadeRows = 6000
    validation_rows: _MadeRows = 300
    test_rows: _MadeRows = 500
    label_noise_fraction: Fraction = 0.0
    """Share of train rows whose label is replaced by a neighbouring level."""
    class_shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.25, 0.15)
    """Shares of the five levels, most urgent first; scaled to sum 1."""
    distractors: Annotated[int, Field(ge=0, le=6)] = 2
    """Maximum number of distracting statements (negated, family or past findings) per note."""


@dataclass(frozen=True, config=_strict)
class ColumnsConfig:
    """Names of the columns in the user's files."""

    question: str = "question"
    """A column, or text with columns in braces: "{age}, {sex}. {complaint}"; {{ and }} are braces."""
    context: str | None = None
    """Optional text after the question; it alone is shortened when the input is too long. A column, or text
    with columns in braces."""
    label: str = "label"
    """Column with the label, taken as text exactly as written."""
    rationales: dict[str, str] = Field(default_factory=lambda: {"default": "rationale"})
    """Rationale source name -> column."""
    id: str | None = None
    """Column with a unique id for each row; null: the place of the row in its file."""
    split: str | None = None
    """Column that tells the split of each row of `data.path`."""
    group: str | None = None
    """Column, such as a patient's id: all rows with the same value stay in one split."""
    subgroups: dict[str, str] = Field(default_factory=dict)
    """Subgroup name -> column, such as {sex: sex, age: age_years}: test metrics are also given for each of its values.
    It is not part of the model's input."""
    subgroup_edges: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Subgroup name -> where the bands of its numeric column begin: {age: [18, 65]} makes "below 18", "18 to
    below 65" and "65 and above"."""


@dataclass(frozen=True, config=_strict)
class DataConfig:
    """Rows and their limits."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Of synthetic rows, of drawn splits and of a validation split taken from train; null: the run's seed."""
    source: Literal["files", "triage"] = "files"
    """files: the rows of `path`, or of a path for each split; triage: generated notes, as `triage` below says."""
    path: str | None = None
    """One source with all rows: a file, a pattern of files, gs://..., hf:NAME[:CONFIG][:SPLIT] or
    tfds:NAME_OR_FOLDER[:SPLIT]. Split by columns.split, by split_shares, or as the Hub or TFDS has it."""
    train_path: str | None = None
    """A source of one split, instead of `path`; likewise below."""
    validation_path: str | None = None
    test_path: str | None = None
    split_values: dict[SplitName, str] = Field(default_factory=_same_split_values)
    """Value of the split column, or name of the split on the Hub or in TFDS, for each split."""
    split_shares: dict[SplitName, Fraction] | None = None
    """Draw the splits of `path` by seed and row id, stratified by label: for example
    {train: 0.8, validation: 0.1, test: 0.1}."""
    validation_fraction: Fraction = 0.1
    """Share of train, stratified by label, that becomes validation where none is given."""
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)
    duplicates: Literal["keep", "drop"] = "keep"
    """Rows whose question and context, character by character, appear in two splits: keep and warn, or drop
    them from train where validation or test has them, and from validation where test has them."""
    missing_rationales: Literal["error", "skip", "keep"] = "error"
    """Rows without a rationale that a stage learns: stop, leave them out of every split, or keep them, so that they
    teach their label alone."""
    label_map: dict[str, str] = Field(default_factory=dict)
    """Label as written -> label to use, such as {"benign ": Benign}; a key that no row has is an error."""
    encoding: str = "utf-8"
    """Encoding of text files, such as cp1252."""
    triage: TriageConfig = Field(default_factory=TriageConfig)
    input_limit_tokens: Annotated[int, Field(ge=16, le=65_536)] = 1024
    """Longest prompt, end token included; of a longer one the end of the context is cut, then of the question."""
    rationale_limit_tokens: _Tokens = 256
    """Longest rationale to learn, end token included; the end of a longer one is cut."""
    label_limit_tokens: _Tokens | None = None
    """Longest label with its end token; null: derived from the label set. A longer label is an error."""
    check: Literal["stop", "warn", "off"] = "stop"
    """The data check before training: stop where something would damage it, only report it, or skip the check."""
    length_buckets: Annotated[int, Field(ge=1, le=1000)] = 4
    """Maximum number of array shapes that training batches are trimmed to, each compiled once; 1: one shape for all. A
    stage of few steps has fewer: a further shape must save more steps than its compilation takes."""


@dataclass(frozen=True, config=_strict)
class OptimizerConfig:
    """AdamW as published; the rate decays linearly to 0 over the stage's max_steps."""

    learning_rate: _Positive = 5e-5
    """Highest rate, from which it decays."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**8)] = 0
    """Steps in which the rate first rises linearly from 0."""
    beta1: _Decay = 0.9
    """Decay of the mean of the gradients, per step."""
    beta2: _Decay = 0.999
    """Decay of the mean of their squares, per step."""
    eps: _Positive = 1e-8
    """Added to the divisor of each update, so that none is 0."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Of every weight, norms and position biases too, as torch's AdamW does."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest global gradient norm."""


@dataclass(frozen=True, config=_strict)
class StageConfig:
    """What both stages have."""

    max_steps: _Steps = 30000
    """Maximum number of updates of the stage; the schedules of rate, alpha and pi are shares of it."""
    batch_size: _Batch = 64
    """Rows of the global batch, over all devices and micro-batches."""
    micro_batches: _Batch | None = None
    """Equal parts in which a batch is computed to save memory; results do not depend on it. null: on a single CPU
    parts of at least 320 tokens (640 from a width of 256 on), which stay in its cache and are faster; elsewhere one."""
    eval_every_steps: _Steps = 500
    """Steps between two evaluations on the validation split."""
    save_every_steps: _Steps = 500
    """Steps between two checkpoints; so many can be lost where a run is killed."""
    log_every_steps: _Steps = 50
    """Steps between two lines of metrics."""
    patience_evals: _Steps = 5
    """Stop after this many evaluations in a row without a better score. Stage 2 of r2d and r2dc counts only
    evaluations after warm-up and transition, by default 65 % of max_steps."""
    rationale_source: str | None = None
    """Which of data.columns.rationales to learn; null: the only one there is, of generated notes llm."""
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)


@dataclass(frozen=True, config=_strict)
class Stage1Config(StageConfig):
    """Stage 1: rationale only; the best checkpoint has the lowest validation loss."""

    enabled: bool = True
    """False: stage 2 starts from model.init or random weights (ablation)."""
    max_steps: _Steps = 50000
    eval_every_steps: _Steps = 1000
    save_every_steps: _Steps = 1000
    patience_evals: _Steps = 3


@dataclass(frozen=True, config=_strict)
class Stage2Config(StageConfig):
    """Stage 2: label and rationale; the best checkpoint has the highest validation macro-F1."""

    label_weight: Fraction = 0.7
    """alpha after warm-up: the weight of the label loss; for dss its weight in every step."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: the loss of a label counts N / (number of labels x rows of the label), so that rare labels
    weigh as much as frequent ones; rationales and validation losses are not weighted. Probabilities of rare labels
    become too high, which calibration cannot undo: do not use it together with costs."""
    warmup_fraction: Fraction = 0.05
    """Share of max_steps in which alpha rises from 0 to label_weight."""
    transition_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    """Share of max_steps after warm-up in which pi would rise from 0 to 1."""
    max_sampling_probability: Fraction = 0.9
    """Largest probability pi that a predicted label replaces the gold one in the rationale prompt."""
    select_before_transition: bool = False
    """True: evaluations before warm-up + transition may become the best checkpoint (published rule)."""
    label_decode_dropout: bool = False
    """True: decode labels in training with dropout on (published behaviour)."""
    adaptive_sampling: bool = True
    """r2dc only: the surer the model is of its label, the likelier it is used: with probability pi times
    sigmoid(10 (confidence - tau)). Labels are then decoded in every step. False: with probability pi, as in r2d."""
    tau_window_steps: _Steps = 1000
    """r2dc only: tau is the mean confidence of warm-up, and from then on that of the last whole window of steps."""
    cycle_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    """r2dc only: weight, after warm-up, of the loss of reading the given label back from the rationale. 0: off."""
    gumbel_start_temperature: Temperature = 1.0
    """r2dc only: of the rationale that is read back, at step 0; it falls exponentially."""
    gumbel_end_temperature: Temperature = 0.5
    """r2dc only: at max_steps."""


@dataclass(frozen=True, config=_strict)
class MeshConfig:
    """How devices are laid out; -1 on one axis takes all that are left."""

    data: _Axis = -1
    """Groups of devices that each take a part of the batch and hold all weights."""
    fsdp: _Axis = 1
    """Devices of a group that also take a part of the batch each, and share the weights and optimiser state
    between them: less memory for each, more traffic."""
    tensor: _Axis = 1
    """Devices that compute the same rows together, each with a part of the heads, the feed-forward width and the
    vocabulary."""


@dataclass(frozen=True, config=_strict)
class BertScoreConfig:
    """BERTScore of rationales."""

    model: str
    """Hub name or folder of the scoring model."""
    num_layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Layer whose output is compared; null: bert-score's choice, known for some hub names."""
    rescale: bool = False
    """Rescale against the baseline that bert-score ships; an error where there is none."""
    baseline_path: str | None = None
    """Baseline file to rescale against."""
    batch_size: _Batch = 32
    """Texts scored at once."""


@dataclass(frozen=True, config=_strict)
class TriageScoringConfig:
    """The harm of wrong levels, for labels that are ordered by urgency."""

    order: tuple[str, ...]
    """All labels of the data (after data.label_map), by urgency."""
    first: Literal["most_urgent", "least_urgent"]
    """Which end `order` begins with. Under-triage is a prediction less urgent than the gold label."""
    costs: str | dict[str, dict[str, float]] = "linear"
    """Cost of a mistake: linear (levels), quadratic (levels squared), linear_under_x3 or quadratic_under_x3 (three
    times as much for under-triage), or gold label -> predicted label -> number, 0 or more. An output that is no
    label costs as much as the worst label of its gold row."""


@dataclass(frozen=True, config=_strict)
class EvaluationConfig:
    """Decoding and scoring of validation and test rows."""

    batch_size: _Batch = 64
    """Rows decoded at once; results do not depend on it."""
    rationale_decode_tokens: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Longest generated rationale; null: data.rationale_limit_tokens."""
    worked_examples: _RowsOrNone = 0
    """How many test cases WITH THEIR TEXT to print at the end of a run; keep 0 for sensitive text."""
    rationale_checks: bool = True
    """Whether the test evaluation feeds rationales back (consistency, sufficiency, gold robustness) and
    writes them under other labels (label-flip sensitivity)."""
    flip_rows: _RowsOrNone = 200
    """Test rows, evenly spaced, whose rationale is written under other labels."""
    flip_labels: _Rows = 5
    """Maximum number of other labels per row."""
    faithfulness_rows: _RowsOrNone = 200
    """Test rows, evenly spaced, that are predicted again without the sentences that the rationale cites, and from
    these alone, and likewise with random sentences: five label decodes each. 0: none; needs rationale_checks."""
    resamples: Annotated[int, Field(ge=0, le=10**5)] = 1000
    """Bootstrap samples for each 95 % interval; 0: no intervals."""
    probabilities: bool = True
    """Score every label of the label set: for each test row one decoder pass over all labels beside the prediction, and
    for each validation row, to calibrate, an encoder pass too. See docs/probabilities.md."""
    max_scored_labels: _Rows = 64
    """Label sets larger than this are not scored."""
    target_risk: OpenFraction | None = None
    """Largest share of wrong labels among those given: predictions below a probability, chosen on validation rows, are
    marked as abstained. null: nothing is marked."""
    risk_confidence: OpenFraction | None = 0.95
    """Confidence that the target also holds on new rows; null: it holds on the validation rows themselves."""
    triage: TriageScoringConfig | None = None
    """Score under- and over-triage, weighted kappa and expected cost."""
    subgroup_least_rows: _Rows = 30
    """Minimum number of test rows of a group that may be named the worst one; smaller groups are only reported."""
    bertscore: BertScoreConfig | None = None
    """Score rationales by BERTScore too; needs the extra [eval]."""


@dataclass(frozen=True, config=_strict)
class Config:
    """One run: data, model, both stages, evaluation."""

    method: MethodName = "r2d"
    """r2d: stage 1, then label and rationale given the label. r2dc: the same with confidence-adaptive sampling and
    the cycle loss. Baselines, stage 2 only: sft: label alone; dss: label, and rationale without a given label
    (distilling step-by-step)."""
    label_decode: LabelDecode = "free"
    """How a label is decoded, in training and in every use of the model. free: token by token, whatever text that
    gives. constrained: only tokens that go on to a label of the run's label set, so that no output is invalid."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of random weights, order of rows, dropout and sampling; of drawn splits too, unless data.seed is set."""
    platform: Literal["any", "cpu", "gpu", "tpu"] = "any"
    """Platform that must be found; anything else stops the run at once."""
    data: DataConfig = Field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    stage1: Stage1Config = Field(default_factory=Stage1Config)
    stage2: Stage2Config = Field(default_factory=Stage2Config)
    mesh: MeshConfig = Field(default_factory=MeshConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    donate_buffers: bool = True
    """Let a training step write the new state over the old one. False holds both: for a debugger that looks at
    inputs again (JAX_DEBUG_NANS)."""
    deterministic: bool = False
    """True: a GPU uses only kernels that give the same bits each time, which are slower. Nothing changes elsewhere."""
    tensorboard: bool = True
    """Write scalar metrics for TensorBoard beside metrics.jsonl."""
