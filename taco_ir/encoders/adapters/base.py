"""The interface of adapter methods: how they hook into a frozen backbone, and how many parameters they train."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.encoders.adapters.hook_points import Shape, Sites


class Insert(nn.Module):
    """Modules that an adapter method inserts into a backbone, with trained tensors for each adapter (at most one is
    active).

    Attributes:
        sets: the modules of each adapter, by the adapter's name; empty at first.
        active: name of the active adapter; None if only the backbone is used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: str | None = None
        self.sets = nn.ModuleDict()

    @abstractmethod
    def add(self, name: str) -> None:
        """Create the modules of the adapter `name`, with initial values."""

    def tensors(self, name: str) -> dict[str, Parameter]:
        """Return an adapter's trained tensors by name; tensor names are the same for all adapters."""
        return dict(self.sets[name].named_parameters())

    def stored(self, name: str) -> Mapping[str, Tensor]:
        """Return an adapter's tensors for a model folder: the trained tensors, or tensors computed from them."""
        return self.tensors(name)

    def use(self, name: str | None) -> None:
        """Activate the adapter `name`; None: use only the backbone."""
        self.active = name


class Target(NamedTuple):
    """A backbone to insert adapters into, with the sizes that a method needs to build its modules.

    Attributes:
        width: the adapter's width, such as LoRA's rank or the length of a prompt.
        shifted: whether the position ids of texts start after the adapter's prompt.
        reparameterised: names of adapters with prompts that are computed by a network during training.
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
    """An adapter method. Each method is a constant in a separate file, listed in `methods.METHODS`.

    Attributes:
        build: function that makes the modules to insert into a backbone.
        numbers: function of the backbone's shape and the adapter's width; returns the number of parameters.
        width: the default width; 0: the method has only one size.
        positions: where position ids of texts start: after the prompt (`shifted`) or at 0 (`plain`); empty: no prompts.
        refuse: function that returns why a backbone is unsuitable, or ""; {supported} stands for the suitable methods.
        merge: function that adds an adapter's tensors to a backbone's weights; None: the method cannot be merged.
    """

    build: Callable[[Target], Sequence[Insert]]
    numbers: Callable[[Shape, int], int]
    width: int = 0
    positions: str = ""
    refuse: Callable[[Target], str] = lambda _: ""
    merge: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None
