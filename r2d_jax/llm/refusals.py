"""Short rules for answers that only decline; in: the text of an answer, out: whether it is a refusal."""

import re

_OPENING = (
    r"(?:(?:i'?m|i am|we'?re|we are)?\s*(?:very |so |truly |really )?sorry|my apologies|i apologi[sz]e"
    r"|unfortunately|as an? (?:ai|artificial|large|language)[^.,]{0,60}|as a language model)"
)
_CANNOT = (
    r"(?:i|we)(?:'m| am| are)? (?:cannot|can'?t|can not|won'?t|will not|must decline|have to decline|decline"
    r"|not able|unable|not comfortable|not permitted|not allowed)"
)
_TASK = (
    r"(?:help|assist|comply|fulfil+|provide|give|offer|answer|respond|continue|proceed|discuss|create"
    r"|generate|write|produce|process|complete|engage|participate|do (?:that|this)|make medical)"
)
# Only at the start: a rationale may well say "... and I cannot exclude a fracture".
_REFUSAL = re.compile(
    rf"\W*(?:{_OPENING}\W+(?:but |that )?)?{_CANNOT}(?: to| with| from)? {_TASK}"
    rf"|\W*{_OPENING}\W+(?:but |that )?{_CANNOT}\b",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether a text starts by declining the task ("I'm sorry, but I can't help with that").

    Rules for English alone, made to miss some refusals rather than to take a rationale for one: "I cannot
    exclude a fracture" is none.
    """
    return _REFUSAL.match(text.replace("\u2019", "'")) is not None
