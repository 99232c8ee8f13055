"""Settings that a run does not look at; in: a Config, out: the names of those that were set all the same."""

import fnmatch

from r2d_jax.config import Config
from r2d_jax.config_identity import R2DC_ONLY, all_settings
from r2d_jax.methods import METHODS

__all__ = ["without_effect"]

_SCHEDULE = ("stage2.warmup_fraction", "stage2.transition_fraction", "stage2.select_before_transition")
_SAMPLING = ("stage2.max_sampling_probability", "stage2.label_decode_dropout")
_CHECKS = ("evaluation.flip_*", "evaluation.faithfulness_rows")
_PROBABILITIES = ("evaluation.max_scored_labels", "evaluation.target_risk", "evaluation.risk_confidence")


def without_effect(config: Config) -> list[str]:
    """Names of settings that differ from their defaults although nothing in the run depends on them.

    They may have been meant for another method, as in configs of a comparison, or stand there by mistake.
    """
    unread: list[str] = []
    method, second, evaluation = METHODS[config.method], config.stage2, config.evaluation
    if not method.two_stages:
        unread += ["stage1.*", *_SCHEDULE, *_SAMPLING]
    elif not config.stage1.enabled:
        unread += ["stage1.*"]
    if not method.explains:
        unread += ["stage2.label_weight", "stage2.rationale_source", "evaluation.rationale_*", *_CHECKS]
        unread += ["evaluation.bertscore*"]
    if not method.adaptive:
        unread += R2DC_ONLY
    else:
        unread += [] if second.adaptive_sampling else ["stage2.tau_window_steps"]
        unread += [] if second.cycle_weight else ["stage2.gumbel_*"]
    if second.max_sampling_probability == 0:
        unread += ["stage2.label_decode_dropout"]
    unread += [] if evaluation.rationale_checks else _CHECKS
    unread += [] if evaluation.probabilities else _PROBABILITIES
    settings, defaults = all_settings(config), all_settings(Config())
    return [
        name
        for name, value in settings.items()
        if name != "stage1.enabled"
        and (name not in defaults or value != defaults[name])
        and any(fnmatch.fnmatchcase(name, pattern) for pattern in unread)
    ]
