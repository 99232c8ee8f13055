"""What the methods are; in: a name in a config, out: its stages, prompts and settings, and what model cards say."""

import dataclasses
from typing import Literal

__all__ = ["METHODS", "Method", "MethodName", "RationalePrompt"]

MethodName = Literal["r2d", "r2dc", "sft", "dss"]
RationalePrompt = Literal["given_label", "explain", "none"]
"""What asks a model for a rationale; "none": it gives none."""


@dataclasses.dataclass(frozen=True)
class Method:
    """All that sets a method apart but what it minimises (`training/stages.py`).

    Attributes:
        trained: how its models are trained, to follow the word "trained".
        rationale_prompt: of its models.
        two_stages: whether it has a first stage, and samples labels in the second.
        adaptive: whether it has the settings of R2D-C.
    """

    trained: str
    rationale_prompt: RationalePrompt
    two_stages: bool = False
    adaptive: bool = False

    @property
    def explains(self) -> bool:
        """Whether its models give rationales."""
        return self.rationale_prompt != "none"


METHODS: dict[str, Method] = {
    "r2d": Method(
        "by Reason2Decide (Hasan et al., arXiv 2512.20074): first for rationales, then for labels and for the "
        "rationale of a given label, which is more and more the model's own",
        "given_label",
        two_stages=True,
    ),
    "r2dc": Method(
        "by R2D-C (Hasan et al., Computers 2026, 15(5):279), which is Reason2Decide (arXiv 2512.20074) with "
        "confidence-adaptive sampling and a cycle loss",
        "given_label",
        two_stages=True,
        adaptive=True,
    ),
    "dss": Method(
        "for labels and rationales in one stage, the rationale without a given label (distilling step-by-step, "
        "Hsieh et al., 2023)",
        "explain",
    ),
    "sft": Method("for labels alone", "none"),
}
