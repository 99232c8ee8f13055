"""What makes two configs one run; in: a Config, out: its settings by name, their hash, and how a run differs."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from r2d_jax.config import Config
from r2d_jax.methods import METHODS

__all__ = ["MAPS_OF_NAMES", "R2DC_ONLY", "all_settings", "config_hash", "differences", "settings_of"]

# Settings whose inner names are the user's: one value each, replaced as a whole by a file that extends another one.
MAPS_OF_NAMES = (
    "rationales",
    "split_values",
    "split_shares",
    "label_map",
    "subgroups",
    "subgroup_edges",
    "costs",
)
# Results do not depend on these: a run may go on with others, on another layout of devices for example.
_FREE = (
    "tensorboard",
    "donate_buffers",
    "deterministic",
    "platform",
    "data.check",
    "mesh",
    "model.remat",
    "model.scan_layers",
    "evaluation.batch_size",
    "evaluation.worked_examples",
    *(
        f"{stage}.{name}"
        for stage in ("stage1", "stage2")
        for name in ("micro_batches", "log_every_steps", "save_every_steps")
    ),
)
# Other methods do not look at these.
R2DC_ONLY = tuple(
    f"stage2.{name}"
    for name in (
        "adaptive_sampling",
        "tau_window_steps",
        "cycle_weight",
        "gumbel_start_temperature",
        "gumbel_end_temperature",
    )
)
_ADAPTER = TypeAdapter(Config)
_ABSENT = object()


def _values(config: Config) -> dict[str, Any]:
    values = _ADAPTER.dump_python(config, mode="json")
    for name in _FREE if METHODS[config.method].adaptive else (*_FREE, *R2DC_ONLY):
        inner = values
        *parents, last = name.split(".")
        for parent in parents:
            inner = inner[parent]
        del inner[last]
    return values


def _leaves(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and name not in MAPS_OF_NAMES:
            yield from _leaves(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value


def all_settings(config: Config) -> dict[str, Any]:
    """Every setting as a JSON value by dotted name."""
    return dict(_leaves(_ADAPTER.dump_python(config, mode="json")))


def settings_of(config: Config) -> dict[str, Any]:
    """Those settings that can change what is trained or how it is scored, as JSON values by dotted name."""
    return dict(_leaves(_values(config)))


def config_hash(config: Config) -> str:
    """Short sha256 of all settings that can change what is trained or how it is scored (rounding apart)."""
    return hashlib.sha256(json.dumps(_values(config), sort_keys=True).encode()).hexdigest()[:16]


def differences(config: Config, recorded: Mapping[str, Any]) -> list[str]:
    """What another run is than the recorded one, as `stage1.max_steps is 100, here 200`; empty for the same run.

    A setting that the record does not know was added after the run began: its default means "as before", so a newer
    version goes on with runs of an older one.

    Args:
        config: of the run that is asked for.
        recorded: `settings_of` the config that a run began with, as read back from JSON.
    """
    asked = settings_of(config)
    defaults = settings_of(dataclasses.replace(Config(), method=config.method))
    found = []
    for name in sorted(asked.keys() | recorded.keys()):
        before, now = recorded.get(name, defaults.get(name, _ABSENT)), asked.get(name, _ABSENT)
        if before != now:
            shown = ("absent" if value is _ABSENT else json.dumps(value) for value in (before, now))
            found.append("{} is {}, here {}".format(name, *shown))
    return found
