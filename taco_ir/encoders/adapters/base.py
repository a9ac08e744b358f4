"""The interface of an adapter method: how it is hooked into a frozen backbone, and how many numbers it trains there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.encoders.adapters.hook_points import Shape, Sites


class Insert(nn.Module):
    """Modules inserted into a backbone: one set of trained tensors for each adapter, of which at most one is in use.

    Attributes:
        sets: those of each adapter by its name; none at first.
        active: the adapter that passes go through; None: the backbone alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: str | None = None
        self.sets = nn.ModuleDict()

    @abstractmethod
    def add(self, name: str) -> None:
        """Make the set of the adapter `name`, with new numbers."""

    def tensors(self, name: str) -> dict[str, Parameter]:
        """The tensors of a set, by names that are the same for all sets."""
        return dict(self.sets[name].named_parameters())

    def stored(self, name: str) -> Mapping[str, Tensor]:
        """The tensors of a set to store in a model folder; its own, unless the method computes them from others."""
        return self.tensors(name)

    def use(self, name: str | None) -> None:
        """Let passes go through the adapter `name`; None: through the backbone alone."""
        self.active = name


class Target(NamedTuple):
    """The backbone and the sizes that a method builds its inserts for.

    Attributes:
        shifted: whether texts' positions begin behind the adapter's prompt.
        reparameterised: adapters whose prompts are computed by a network while they train.
    """

    backbone: nn.Module
    sites: Sites
    shape: Shape
    width: int
    shifted: bool
    reparameterised: Collection[str]

    @property
    def kind(self) -> str:
        return str(self.backbone.config.model_type)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Method:
    """An adapter method; each is a constant in a file of its own, named in `methods.METHODS`.

    Attributes:
        build: makes its inserts for a backbone.
        numbers: how many numbers one adapter trains, by the backbone's shape and the adapter's width.
        width: the default width; 0: the method has one size.
        positions: of texts behind prompts: `shifted`, or `plain` where they begin at 0; empty: no prompts.
        refuse: says what is wrong with a backbone, if anything; {supported} stands for the methods that it can have.
        merge: adds an adapter's tensors to the weights of a backbone; None: it is more than a change of weights.
    """

    build: Callable[[Target], Sequence[Insert]]
    numbers: Callable[[Shape, int], int]
    width: int = 0
    positions: str = ""
    refuse: Callable[[Target], str] = lambda _: ""
    merge: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None
