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
    """What is inserted into a backbone: a named set of trained tensors for each adapter, of which one at most is in use.

    It is built with no set; `active` names the one that passes go through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: str | None = None

    @abstractmethod
    def add(self, name: str) -> None:
        """Make the set `name`, with new numbers."""

    @abstractmethod
    def tensors(self, name: str) -> dict[str, Parameter]:
        """The tensors of a set, by names that are the same for all sets."""

    def stored(self, name: str) -> Mapping[str, Tensor]:
        """What a model folder holds of a set: its tensors, if the method says nothing else."""
        return self.tensors(name)

    def use(self, name: str | None) -> None:
        """Let passes go through the set `name`; None: through the backbone alone."""
        self.active = name


class Target(NamedTuple):
    """What a method is built on.

    Attributes:
        shifted: whether texts' positions begin behind the adapter's prompt.
        reparameterised: adapters whose prompts are, while they train.
    """

    backbone: nn.Module
    sites: Sites
    shape: Shape
    width: int
    shifted: bool
    reparameterised: Collection[str]


@dataclass(frozen=True)
class Method:
    """An adapter method; each is a constant in a file of its own, named in `methods.METHODS`.

    Attributes:
        build: what it inserts into a backbone.
        numbers: how many numbers one adapter trains, by the backbone's shape and the adapter's width.
        width: the default one; 0: the method has one size.
        positions: for prompts, whether texts' positions begin behind them (`shifted`) or at 0 (`plain`); empty: no prompts.
        refuse: what is wrong with a backbone, if anything; {supported} stands for the methods that it can have.
        merge: adds an adapter's tensors to the weights of a backbone, where that is all they do.
    """

    build: Callable[[Target], Sequence[Insert]]
    numbers: Callable[[Shape, int], int]
    width: int = 0
    positions: str = ""
    refuse: Callable[[Target], str] = lambda _: ""
    merge: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None
