"""What stands in the new channels of a tensor, while a run is read."""

from dataclasses import dataclass, field
from enum import Enum

from graftwork.surgery.streams._powers import Power


class Kind(Enum):
    """What the new channels of a tensor hold.

    Attributes:
        NONE: There are none: the tensor does not hold the stream.
        ZERO: Zero.
        MEAN: The mean of the old channels.
        COPY: Copies of the old channels, one after the other, each as often.
        FREE: Something else.
        LEAF: What is chosen: the tensor is a parameter.
    """

    NONE = "nothing"
    ZERO = "zero"
    MEAN = "the mean of the old channels"
    COPY = "copies of the old channels"
    FREE = "something else"
    LEAF = "a parameter's own"


class Fill(Enum):
    """How the new entries of a parameter along one dimension start.

    Attributes:
        FREE: As weights start, or at the mean of a gain; among copies, shares that differ and add up.
        ZERO: At zero.
        MEAN: At the mean of the old entries.
        COPY: As the old entries.
    """

    FREE = "free"
    ZERO = "zero"
    MEAN = "mean"
    COPY = "copy"


@dataclass(frozen=True)
class Writer:
    """A linear map whose rows make channels of the stream.

    Attributes:
        weight: Name of the weight and its dimension.
        bias: Name of the bias, None where there is none.
    """

    weight: tuple[str, int]
    bias: str | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of a weight that make channels of the stream.

    Attributes:
        name: Name of the weight.
        dim: Its dimension.
        start: The first of the old rows.
        stop: The first behind them.
    """

    name: str
    dim: int
    start: int
    stop: int

    def part(self, start: int, stop: int) -> "Rows":
        """Return some of them, counted from their first."""
        return Rows(self.name, self.dim, self.start + start, self.start + stop)


@dataclass(frozen=True)
class Value:
    """What a tensor of the run becomes in the wider model.

    Attributes:
        kind: What stands in its new channels.
        power: The power of the ratio by which its old entries are scaled; None where it is zero everywhere.
        root: Number of the tensor that it shows unchanged, for "a tensor less its own mean".
        name: For `Kind.LEAF`, the parameter.
        dim: For `Kind.LEAF`, its dimension that holds the stream.
        offset: For `Kind.LEAF`, what was added to it: a gain that is stored as 1 + w.
        mean_of: Root of the tensor whose mean over the stream it is.
        writer: The linear map that has made it, with nothing but scaling in between.
        why: For `Kind.FREE`, how it came to that.
        rows: The rows whose products it holds, with nothing in between but what acts on each number alone.
    """

    kind: Kind
    power: Power | None = field(default_factory=dict)
    root: int = -1
    name: str = ""
    dim: int = -1
    offset: float = 0.0
    mean_of: int = -1
    writer: Writer | None = None
    why: str = ""
    rows: Rows | None = None


@dataclass
class Roles:
    """What a wider model asks of its parameters.

    Attributes:
        fills: Parameter and dimension → how new entries start, and for whom.
        offsets: Parameter → what the forward adds to it before it multiplies.
        weighted: Weight and dimension, or bias and 0 → gains by which the average over old rows is weighted.
        scaling: The gains among them.
        plain: Weights and biases that are added to the stream as they are.
        twice: What is multiplied though new channels of both are zero, by the rows that make the one and the other.
        free: Rows whose new entries are free, among others that are not.
    """

    fills: dict[tuple[str, int], tuple[Fill, str]] = field(default_factory=dict)
    offsets: dict[str, float] = field(default_factory=dict)
    weighted: dict[tuple[str, int], str] = field(default_factory=dict)
    scaling: set[str] = field(default_factory=set)
    plain: set[tuple[str, int]] = field(default_factory=set)
    twice: list[tuple[Rows | None, Rows | None]] = field(default_factory=list)
    free: set[Rows] = field(default_factory=set)
