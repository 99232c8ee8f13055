"""The README of an exported folder; in: model card and tokenizer, out: Markdown: use, limits, what happens to text."""

import json
import re
from collections.abc import Mapping

from r2d_jax.config import DataConfig
from r2d_jax.data.features import question_limit_tokens
from r2d_jax.data.prompts import EXPLAIN, GIVEN_LABEL, PREDICT, PromptTokens
from r2d_jax.data.text_map import BRACKET_MARKER, LINE_BREAK
from r2d_jax.data.tokenizer import Tokenizer
from r2d_jax.evaluation.model_folder import ModelCard

_README = """---
library_name: transformers
pipeline_tag: text-generation
tags: [t5, reason2decide]
---

# Reason2Decide model

A T5 that predicts a label and explains it, trained in two stages with r2d_jax
(method: Reason2Decide, arXiv 2512.20074). Research software: not a medical device.

## Use

```python
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

model = T5ForConditionalGeneration.from_pretrained(FOLDER)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)


def encode(text):
    return tokenizer(text, add_special_tokens=False).input_ids


def generate(prompt, limit):
    ids = torch.tensor([[*prompt, tokenizer.eos_token_id]])
    output = model.generate(ids, max_new_tokens=limit, do_sample=False, num_beams=1)[0, 1:].tolist()
    return output[: output.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in output else output


def decode(ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


question = encode("...")[:{question_tokens}]
label = generate([*encode("{before_label}"), *question], {label_tokens})
{rationale_code}
```

{prompts}
Labels: {labels}.
Question and context are one text with a blank between them, the context last, so that a cut takes the end of the
context first; a prompt then has {input_limit} tokens at most. The parts of a prompt are put
together as tokens, as in training. Tokenising the whole prompt as one text gives other tokens where a label ends in
a number, bracket or quote that the vocabulary has in one piece with a comma.

## What happens to text

{text}
"""

_GIVEN = """\
rationale = generate([*encode("{before_given}"), *label, *{then_explain}, *question], {rationale_tokens})
print(decode(label), decode(rationale))  # {then_explain} is "{after_given}" behind a word"""
_EXPLAIN = """\
rationale = generate([*encode("{before_rationale}"), *question], {rationale_tokens})
print(decode(label), decode(rationale))"""
_NO_RATIONALE = "print(decode(label))"

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


def _use(card: ModelCard) -> dict[str, str]:
    """The lines that ask for a rationale, and the prompts in words."""
    predict, given, explain = (f"`{prompt}`" for prompt in (PREDICT, GIVEN_LABEL, EXPLAIN))
    if card.rationale_prompt == "none":
        return {
            "rationale_code": _NO_RATIONALE,
            "prompts": f"Prompt: {predict}; this model gives no rationale.",
        }
    if card.rationale_prompt == "explain":
        told = f"Prompts: {predict} for the label, {explain} for the rationale, which does not depend on the label."
        return {"rationale_code": _EXPLAIN, "prompts": told}
    told = f"Prompts: {predict} for the label, then {given} for the rationale (stage 1 alone: {explain})."
    return {"rationale_code": _GIVEN, "prompts": told}


def readme_text(card: ModelCard, tokenizer: Tokenizer) -> str:
    """The text of README.md; its code does what `r2d predict` does.

    Args:
        card: of the model.
        tokenizer: that it was trained with.
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
        "question_tokens": question_limit_tokens(limits, tokens, card.label_tokens),
        "label_tokens": card.label_tokens,
        "rationale_tokens": card.rationale_tokens,
        "labels": ", ".join(json.dumps(label, ensure_ascii=False) for label in card.labels) or "not recorded",
        "input_limit": card.input_limit_tokens,
        "text": _text_rules(tokenizer),
    }

    def filled(template: str) -> str:
        # In one pass, for a label may spell the name of another value.
        return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), template)

    use = _use(card)
    values |= {"rationale_code": filled(use["rationale_code"]), "prompts": use["prompts"]}
    return filled(_README)
