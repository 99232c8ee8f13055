"""How to use an exported folder, for its README; in: model card and tokenizer, out: Markdown with code that runs."""

import json
import re
from collections.abc import Collection, Mapping

from r2d_jax.config import DataConfig
from r2d_jax.data.features import question_limit_tokens
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT, PromptBuilder, PromptTokens
from r2d_jax.data.text_map import BRACKET_MARKER, LINE_BREAK
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.model_folder import ModelCard

# As in a data card.
_MAX_LABELS, _LONGEST_LABEL = 60, 40

_USAGE = """## Use

{needs}```python
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

FOLDER = "."  # where this README is; of a model on the Hub: huggingface_hub.snapshot_download("OWNER/NAME")
model = AutoModelForSeq2SeqLM.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)


def encode(text):
    return tokenizer(text, add_special_tokens=False).input_ids


def generate(prompt, limit, **settings):
    ids = torch.tensor([[*prompt, tokenizer.eos_token_id]])
    output = model.generate(ids, max_new_tokens=limit, do_sample=False, num_beams=1, **settings)[0, 1:].tolist()
    return output[: output.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in output else output


def decode(ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


{allowed_code}question = encode("...")[:{question_tokens}]
{label_code}
{rationale_code}
```

{prompts}
Labels: {labels}.
{valid_labels}
Question and context are one text with a blank between them, the context last, so that a cut takes the end of the
context first; a prompt then has {input_limit} tokens at most. The parts of a prompt are put
together as tokens, as in training. Tokenising the whole prompt as one text gives other tokens where a label ends in
a number, bracket or quote that the vocabulary has in one piece with a comma.

{onnx}## What happens to text

{text}
"""

_GIVEN = """\
rationale = generate([*encode("{before_given}"), *label, *{then_explain}, *question], {rationale_tokens})
print(decode(label), decode(rationale))  # {then_explain} is "{after_given}" after a word"""
_EXPLAIN = """\
rationale = generate([*encode("{before_rationale}"), *question], {rationale_tokens})
print(decode(label), decode(rationale))"""
_RATIONALE_ALONE = """\
rationale = generate([*encode("{before_rationale}"), *question], {rationale_tokens})
print(decode(rationale))"""
_NO_RATIONALE = "print(decode(label))"

_FREE_LABEL = 'label = generate([*encode("{before_label}"), *question], {label_tokens})'
_VALID_LABEL = """\
label = generate([*encode("{before_label}"), *question], {label_tokens}, prefix_allowed_tokens_fn=allowed)"""
_ALLOWED = """\
import json

with open(FOLDER + "/r2d_model.json", encoding="utf-8") as file:
    labels = [[*encode(label), tokenizer.eos_token_id] for label in json.load(file)["labels"]]


def allowed(row, written):
    written = written[1:].tolist()
    following = [ids[len(written)] for ids in labels if len(ids) > len(written) and ids[: len(written)] == written]
    return following or [tokenizer.pad_token_id]


"""
_ALWAYS_VALID = """\
No other text can come out as a label: at each token `allowed` leaves those that go on to one, as in training."""
_MAY_BE_INVALID = """\
What comes out may be none of these labels. With what follows in place of the line that makes `label` it always is
one; `r2d predict --label-decode constrained` does the same.

```python
{allowed_code}{label_code}
```
"""

_NEEDS = {
    "bfloat16": "The weights are bfloat16, and transformers computes in that too.\n\n",
    "int8": """\
The weights are int8 with a float32 scale per output (embedding and head: bfloat16), in the format of
compressed-tensors: `pip install torch transformers compressed-tensors`. They are multiplied out to float32 when the
model is loaded, so the folder is small, and memory in use and speed are those of float32.

""",
}
# By the type of training, model.compute_dtype.
_COMPUTED = {
    "float32": """\
`r2d predict` computes in float32, the type of training, as does `from_pretrained(FOLDER, dtype=torch.float32)`.

""",
    "bfloat16": """\
`r2d predict` computes in bfloat16, the type of training, but softmax and norms in float32. transformers rounds at other
places, so its texts may differ from those of `r2d predict` now and then.

""",
}
_ONNX = """\
### Without torch

`onnx/` has encoder and decoder as ONNX graphs (float32). They were compared with torch when they were made. Needed
are `pip install numpy onnxruntime transformers`, `FOLDER` and the functions `encode` and `decode` above, and this in
place of `model` and `generate`:

```python
import numpy as np
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(FOLDER)
encoder = onnxruntime.InferenceSession(FOLDER + "/onnx/encoder_model.onnx", providers=["CPUExecutionProvider"])
decoder = onnxruntime.InferenceSession(FOLDER + "/onnx/decoder_model.onnx", providers=["CPUExecutionProvider"])


def generate(prompt, limit, prefix_allowed_tokens_fn=None):
    ids = np.array([[*prompt, tokenizer.eos_token_id]])
    mask = np.ones_like(ids)
    [encoded] = encoder.run(None, {"input_ids": ids, "attention_mask": mask})
    written = [tokenizer.pad_token_id]
    while len(written) <= limit:
        inputs = {"input_ids": np.array([written]), "encoder_hidden_states": encoded, "encoder_attention_mask": mask}
        scores = decoder.run(None, inputs)[0][0, -1, :{vocabulary}]
        if prefix_allowed_tokens_fn is not None:
            allowed_ids = prefix_allowed_tokens_fn(0, np.array(written))
            scores = np.where(np.isin(np.arange(len(scores)), allowed_ids), scores, -np.inf)
        written.append(int(scores.argmax()))
        if written[-1] == tokenizer.eos_token_id:
            return written[1:-1]
    return written[1:]
```

The decoder keeps nothing between tokens, so that long rationales take longer than with torch.

"""

_MAPPED = """\
In what is encoded and in what comes back, runs of blanks are one blank, lines neither begin nor end with one, every
kind of line break is a line feed, and an accent is joined to its letter (Unicode NFC). Text that spells a special
token such as `</s>` stays text.

The vocabulary lacks the characters below, or would turn them into others. They travel as the written markers
beside them, in prompts and in targets, and come back when decoded. All of this is part of `tokenizer.json`:
encoding and decoding with the tokenizer above applies it, so give it the text as it is. A text that spells a
marker itself comes back as it was, for its bracket travels as `{bracket}`.

```text
{markers}
```

Any other character that the vocabulary lacks reaches the model as `<unk>` and is left out of what is decoded; the
model never writes it. A few are replaced by others, such as a ligature by its letters. `r2d data check` names both
kinds for a file of rows."""

_UNMAPPED = """\
This model was trained without a text map. Runs of white space, line breaks too, become one blank. Characters that
the vocabulary lacks (with T5's own: `<`, braces, Greek letters) reach the model as `<unk>`, are left out of what
is decoded, and are never written. Take `</s>` and other special tokens out of a text before you encode it: here
transformers would read them as control tokens. `r2d data check` names all these for a file of rows."""


def _marker_table(markers: Mapping[str, str], columns: int = 4) -> str:
    """Character and marker, a few to a line."""
    shown = [f"{'line break' if char == LINE_BREAK else char} {marker}" for char, marker in markers.items()]
    width = max(map(len, shown)) + 2
    lines = (shown[start : start + columns] for start in range(0, len(shown), columns))
    return "\n".join("".join(cell.ljust(width) for cell in line).rstrip() for line in lines)


def _text_rules(tokenizer: Tokenizer) -> str:
    markers = tokenizer.markers
    if not markers:
        return _UNMAPPED
    return _MAPPED.replace("{bracket}", BRACKET_MARKER).replace("{markers}", _marker_table(markers))


def _use(card: ModelCard, first_stage: bool) -> dict[str, str]:
    """The lines that ask for a rationale, and the prompts in words."""
    predict, given, explain = (f"`{prompt}`" for prompt in (PREDICT, GIVEN_LABEL, EXPLAIN))
    if first_stage:
        told = f"Prompt: {explain}; asked for a label, this model writes anything."
        return {"rationale_code": _RATIONALE_ALONE, "prompts": told}
    if card.rationale_prompt == "none":
        return {
            "rationale_code": _NO_RATIONALE,
            "prompts": f"Prompt: {predict}; this model gives no rationale.",
        }
    if card.rationale_prompt == "explain":
        told = f"Prompts: {predict} for the label, {explain} for the rationale, which does not depend on the label."
        return {"rationale_code": _EXPLAIN, "prompts": told}
    told = f"Prompts: {predict} for the label, then {given} for the rationale (stage 1 alone: {explain})."
    if not card.labels:
        told += " Whether the model was trained for these prompts, those of `r2d predict`, is not known here."
    return {"rationale_code": _GIVEN, "prompts": told}


def _label_use(card: ModelCard, first_stage: bool) -> dict[str, str]:
    """The lines that ask for a label, and how a label of the set is made sure of."""
    if first_stage:
        return {"allowed_code": "", "label_code": "", "valid_labels": ""}
    if card.label_decode == "constrained":
        return {"allowed_code": _ALLOWED, "label_code": _VALID_LABEL, "valid_labels": _ALWAYS_VALID}
    told = _MAY_BE_INVALID.replace("{allowed_code}", _ALLOWED).replace("{label_code}", _VALID_LABEL)
    return {"allowed_code": "", "label_code": _FREE_LABEL, "valid_labels": told if card.labels else ""}


def _needs(card: ModelCard, dtype: str) -> str:
    """What to know before the code is run; "" where transformers and `r2d predict` compute alike."""
    alike = card.compute_dtype == "float32" and dtype != "bfloat16"
    return _NEEDS.get(dtype, "") + ("" if alike else _COMPUTED[card.compute_dtype])


def _labels(card: ModelCard, counted: Collection[str] | None) -> str:
    # A long label, or one of very many, may be case text; r2d_model.json has them all.
    short = [label for label in card.labels if len(label) <= _LONGEST_LABEL]
    named = [label for label in short if counted is None or label in counted][:_MAX_LABELS]
    shown = ", ".join(json.dumps(label, ensure_ascii=False) for label in named)
    more = len(card.labels) - len(named)
    if not more:
        return shown or "not recorded"
    return f"{shown}, and {more} more in r2d_model.json" if named else f"{more}, which r2d_model.json has"


def usage_text(
    card: ModelCard,
    tokenizer: Tokenizer,
    *,
    dtype: str = "float32",
    onnx: bool = False,
    counted: Collection[str] | None = None,
    first_stage: bool = False,
) -> str:
    """The part of README.md with code; that does what `r2d predict` does, except for rounding where it says so.

    Args:
        card: of the model.
        tokenizer: that it was trained with.
        dtype: of the stored weights.
        onnx: whether the folder holds ONNX graphs too.
        counted: labels that the table of counts names; None: there is none.
        first_stage: whether this is a model after stage 1, which is asked for rationales alone.
    """
    tokens = PromptTokens.from_tokenizer(tokenizer)
    limits = DataConfig(input_limit_tokens=card.input_limit_tokens)
    before_given, after_given = GIVEN_LABEL.replace("{question}", "").split("{label}")
    values = {
        "before_label": PREDICT.replace("{question}", "").strip(),
        "before_rationale": EXPLAIN.replace("{question}", "").strip(),
        "before_given": before_given.strip(),
        "after_given": after_given.strip(),
        "then_explain": list(tokens.then_explain),
        "question_tokens": question_limit_tokens(limits, PromptBuilder(tokens, card.label_tokens)),
        "label_tokens": card.label_tokens,
        "rationale_tokens": card.rationale_tokens,
        "labels": "none were learned" if first_stage else _labels(card, counted),
        "input_limit": card.input_limit_tokens,
        "text": _text_rules(tokenizer),
        "needs": _needs(card, dtype),
        "onnx": _ONNX if onnx else "",
        "vocabulary": tokenizer.size,
    }

    def filled(template: str) -> str:
        # In one pass, for a label may spell the name of another value.
        return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), template)

    use = _use(card, first_stage)
    values |= {"rationale_code": filled(use["rationale_code"]), "prompts": use["prompts"]}
    values |= {name: filled(text) for name, text in _label_use(card, first_stage).items()}
    values["onnx"] = filled(str(values["onnx"]))
    return filled(_USAGE)
