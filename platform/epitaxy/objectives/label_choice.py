"""Which labels an objective learns, and how much each weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from epitaxy.errors import ConfigError, closest


def chosen_labels(
    label: str | Sequence[str], leave_out: str | Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns all labels, and those that are left.

    Raises:
        ConfigError: If there are none, one occurs twice, none is left, a name to leave out is
            unknown, or a name could not be that of a head.
    """
    given = _names(label)
    if not given or len(set(given)) < len(given):
        raise ConfigError(f"label must name at least one label, each once, got {list(given)}")
    dotted = [name for name in given if "." in name]
    if dotted and len(given) > 1:
        raise ConfigError(f"labels of several heads must not contain a dot: rename {dotted}")
    left_out = _names(leave_out or ())
    for name in left_out:
        if name not in given:
            raise ConfigError(f"leave_out is {name!r}, which is no label; {closest(name, given)}")
    left = tuple(name for name in given if name not in left_out)
    if not left:
        raise ConfigError(f"leave_out leaves none of the labels {list(given)}")
    return given, left


def label_weights(weights: Mapping[str, float] | None, labels: Sequence[str]) -> dict[str, float]:
    """Returns the weight of each label, 1 where ``weights`` has no entry.

    Raises:
        ConfigError: If a label is unknown or a weight is not positive.
    """
    found = dict.fromkeys(labels, 1.0)
    for name, weight in (weights or {}).items():
        if name not in found:
            raise ConfigError(f"weights has the label {name!r}; {closest(name, labels)}")
        if not weight > 0:
            raise ConfigError(
                f"the weight of {name!r} is {weight}, expected a number above 0; "
                f"objective.leave_out={name} does without the label"
            )
        found[name] = float(weight)
    return found


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)
