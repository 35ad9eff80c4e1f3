"""The parameters of a sweep: the values that may be tried for keys of a configuration."""

import itertools
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, final

from omni.errors import UserError

Values = dict[str, Any]  # a value for each key


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """The values that may be tried for one key.

    Attributes:
        name: The key, such as `model.init_args.lr`.
        when: Conditions: other parameters, and the values of theirs for which this one is used.
    """

    name: str
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @abstractmethod
    def at(self, position: float) -> Any:
        """The value at a position in [0, 1)."""

    @abstractmethod
    def grid(self) -> Sequence[Any]:
        """The values of a grid.

        Raises:
            UserError: If there is no number of points.
        """

    @abstractmethod
    def corners(self) -> Sequence[Any]:
        """Values that are checked before the sweep starts: the extremes, or all of a list."""

    @abstractmethod
    def suggest(self, trial: Any) -> Any:
        """The value that the sampler of an Optuna trial suggests."""

    def used(self, values: Mapping[str, Any]) -> bool:
        """Whether the conditions hold for the values of the parameters before it."""
        return all(other in values and values[other] in allowed for other, allowed in self.when.items())


@final
@dataclass(frozen=True, kw_only=True)
class Range(Parameter):
    """Real numbers from `low` to `high`.

    Attributes:
        low: The smallest value.
        high: The largest.
        log: Whether equal ratios are equally likely, instead of equal differences.
        points: Number of points in a grid.
    """

    low: float
    high: float
    log: bool = False
    points: int | None = None

    def at(self, position: float) -> float:
        ratio = self.high / self.low if self.log else 1.0
        value = self.low * ratio**position if self.log else self.low + (self.high - self.low) * position
        return min(max(value, self.low), self.high)  # despite rounding

    def grid(self) -> Sequence[float]:
        if self.points is None:
            raise UserError(
                f"parameters.{self.name}: a grid needs a number of points in a continuous range: add `points: 5`, or "
                "choose another sampler"
            )
        return [self.at(number / (self.points - 1)) for number in range(self.points)]

    def corners(self) -> Sequence[float]:
        return self.low, self.high

    def suggest(self, trial: Any) -> float:
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@final
@dataclass(frozen=True, kw_only=True)
class Integers(Parameter):
    """Integers from `low` to `high`, both included."""

    low: int
    high: int

    def at(self, position: float) -> int:
        return self.low + math.floor(position * (self.high - self.low + 1))

    def grid(self) -> Sequence[int]:
        return range(self.low, self.high + 1)

    def corners(self) -> Sequence[int]:
        return self.low, self.high

    def suggest(self, trial: Any) -> int:
        return trial.suggest_int(self.name, self.low, self.high)


@final
@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    """One of a list of values: numbers, names, lists, or names of YAML files."""

    values: Sequence[Any]

    def at(self, position: float) -> Any:
        return self.values[math.floor(position * len(self.values))]

    def grid(self) -> Sequence[Any]:
        return self.values

    corners = grid

    def suggest(self, trial: Any) -> Any:
        labels = [label(value) for value in self.values]
        return self.values[labels.index(trial.suggest_categorical(self.name, labels))]


@final
class Parameters:
    """The parameters of a sweep, each after those that its conditions name.

    Args:
        fields: The `parameters` of a sweep's YAML file.

    Raises:
        UserError: If a parameter is not valid, in one line that begins with its key.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        read: dict[str, Parameter] = {}
        self._copies: dict[str, tuple[str, Mapping[Any, Any] | None]] = {}
        for name, content in fields.items():
            if isinstance(content, dict) and "same_as" in content and content.keys() <= {"same_as", "map"}:
                self._copies[name] = str(content["same_as"]), content.get("map")
            else:
                read[name] = _parameter(name, content)
        for name, (other, mapping) in self._copies.items():
            if other not in read:
                raise UserError(f"parameters.{name}: same_as is {other}: give one of {', '.join(read) or 'none'}")
            if mapping is not None:
                _check_map(name, read[other], mapping)
        self._ordered = tuple(read[name] for name in _order(read))

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._ordered)

    @property
    def names(self) -> list[str]:
        """All keys, those of `same_as` last."""
        return [*(each.name for each in self), *self._copies]

    def grid(self) -> list[Values]:
        """Every combination of values.

        Raises:
            UserError: If a continuous range has no number of points.
        """
        found: list[Values] = [{}]
        for parameter in self:
            extended: list[Values] = []
            for values in found:
                options = [{parameter.name: each} for each in parameter.grid()] if parameter.used(values) else [{}]
                extended += [{**values, **option} for option in options]
            found = extended
        return [self._with_copies(values) for values in found]

    def at(self, positions: Sequence[float]) -> Values:
        """The values at a point of the unit cube, with one coordinate for each parameter."""
        values: Values = {}
        for parameter, position in zip(self, positions, strict=True):
            if parameter.used(values):
                values[parameter.name] = parameter.at(position)
        return self._with_copies(values)

    def suggest(self, trial: Any) -> Values:
        """The values that the sampler of an Optuna trial suggests."""
        values: Values = {}
        for parameter in self:
            if parameter.used(values):
                values[parameter.name] = parameter.suggest(trial)
        return self._with_copies(values)

    def corners(self) -> list[Values]:
        """Combinations in which every extreme of a range and every value of a list occurs at least once."""
        columns = {each.name: list(each.corners()) for each in self}
        found = [self._combined({}, columns, last=last) for last in (False, True)]
        for parameter in self:
            for value in columns[parameter.name]:
                if all(values.get(parameter.name) != value for values in found):
                    found.append(self._combined(self._conditions(parameter) | {parameter.name: value}, columns))
        return [values for number, values in enumerate(found) if values not in found[:number]]

    def _conditions(self, parameter: Parameter) -> Values:
        """Values that make a parameter used."""
        named = {each.name: each for each in self}
        chosen: Values = {}
        for other, allowed in parameter.when.items():
            chosen |= self._conditions(named[other]) | {other: allowed[0]}
        return chosen

    def _combined(self, chosen: Values, columns: Mapping[str, Sequence[Any]], *, last: bool = False) -> Values:
        values: Values = {}
        for parameter in self:
            if parameter.used(values):
                column = columns[parameter.name]
                values[parameter.name] = chosen.get(parameter.name, column[-1 if last else 0])
        return self._with_copies(values)

    def _with_copies(self, values: Values) -> Values:
        copies = {
            name: values[other] if mapping is None else mapping[values[other]]
            for name, (other, mapping) in self._copies.items()
            if other in values
        }
        return values | copies


def label(value: Any) -> Any:
    """A value as the storage and the tables hold it: scalars as they are, anything else as JSON."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _check_map(name: str, other: Parameter, mapping: Any) -> None:
    values = () if isinstance(other, Range) else other.grid()
    missing = [value for value in values if not isinstance(mapping, dict) or value not in mapping]
    if isinstance(other, Range) or missing:
        raise UserError(f"parameters.{name}: map must give a value for every value of {other.name}, a list or integers")


def _parameter(name: str, content: Any) -> Parameter:
    try:
        if not isinstance(content, dict):
            raise UserError(f"is {content!r}")
        options = dict(content)
        when = {str(other): _listed(allowed) for other, allowed in (options.pop("when", None) or {}).items()}
        kinds = options.keys() & {"log", "range", "int", "values"}
        if len(kinds) != 1:
            raise UserError(f"has {', '.join(sorted(map(str, content))) or 'no key'}")
        (kind,) = kinds
        value, points = options.pop(kind), options.pop("points", None)
        if options:
            raise UserError(f"unknown key {next(iter(options))}")
        if points is not None and (kind not in ("log", "range") or not isinstance(points, int) or points < 2):
            raise UserError("points is for log and range, and is 2 or more")
        return _of_kind(kind, name, when, value, points)
    except UserError as error:
        raise UserError(
            f"parameters.{name}: {error}: give one of log: [LOW, HIGH], range: [LOW, HIGH], int: [LOW, HIGH], "
            "values: [...] or same_as: OTHER",
            page="howto/sweep.md",
        ) from error


def _of_kind(kind: str, name: str, when: Mapping[str, Sequence[Any]], value: Any, points: int | None) -> Parameter:
    if not isinstance(value, list):
        raise UserError(f"{kind} is {value!r}, not a list")
    if kind == "values":
        values = [_number(each) for each in value]
        if not values or any(first == other for first, other in itertools.combinations(map(label, values), 2)):
            raise UserError("values is empty, or holds a value twice")
        return Choice(name=name, when=when, values=values)
    ends = [_number(each) for each in value]
    if len(ends) != 2 or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in ends):
        raise UserError(f"{kind} is {value}, not two numbers")
    low, high = ends
    if not low < high or (kind == "log" and low <= 0):
        raise UserError(f"{kind} is {value}: the first must be smaller{', and positive' if kind == 'log' else ''}")
    if kind == "int":
        if low != int(low) or high != int(high):
            raise UserError(f"int is {value}, not two integers")
        return Integers(name=name, when=when, low=int(low), high=int(high))
    return Range(name=name, when=when, low=float(low), high=float(high), log=kind == "log", points=points)


def _listed(value: Any) -> list[Any]:
    return [_number(each) for each in (value if isinstance(value, list) else [value])]


def _number(value: Any) -> Any:
    """A value, with numbers such as `1e-4`, which YAML 1.1 reads as text, as numbers."""
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def _order(parameters: Mapping[str, Parameter]) -> list[str]:
    """Names of the parameters, each after those that its conditions name, otherwise in the order of the file."""
    for name, parameter in parameters.items():
        for other in parameter.when:
            if other not in parameters:
                raise UserError(f"parameters.{name}: when names {other}, which is no parameter with values of its own")
    try:
        TopologicalSorter({name: each.when for name, each in parameters.items()}).prepare()
    except CycleError as error:
        raise UserError(f"parameters: `when` in a cycle: {' -> '.join(error.args[1])}") from error
    order: list[str] = []
    while len(order) < len(parameters):
        order.append(next(n for n in parameters if n not in order and set(parameters[n].when) <= set(order)))
    return order
