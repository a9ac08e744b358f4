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
    """Modules inserted into a backbone, with one set of trained tensors for each adapter, of which at most one is
    active.

    Attributes:
        sets: the modules of each adapter, by name; empty at first.
        active: the active adapter; None: the backbone alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: str | None = None
        self.sets = nn.ModuleDict()

    @abstractmethod
    def add(self, name: str) -> None:
        """Create the modules of adapter `name`, newly initialised."""

    def tensors(self, name: str) -> dict[str, Parameter]:
        """The tensors of an adapter; their names are the same for all adapters."""
        return dict(self.sets[name].named_parameters())

    def stored(self, name: str) -> Mapping[str, Tensor]:
        """An adapter's tensors to store in a model folder: the trained ones, or what the method computes from them."""
        return self.tensors(name)

    def use(self, name: str | None) -> None:
        """Activate the adapter `name`; None: use the backbone alone."""
        self.active = name


class Target(NamedTuple):
    """The backbone, and the sizes for which a method builds its modules.

    Attributes:
        shifted: whether the position ids of texts start after the adapter's prompt.
        reparameterised: adapters whose prompts are computed by a network during training.
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
    """An adapter method; each is a constant in a separate file, listed in `methods.METHODS`.

    Attributes:
        build: makes the modules to insert into a backbone.
        numbers: how many parameters one adapter trains, from the backbone's shape and the adapter's width.
        width: the default width; 0: the method has only one size.
        positions: where position ids of texts start: after the prompt (`shifted`) or at 0 (`plain`); empty: no prompts.
        refuse: says why a backbone is unsuitable; {supported} in the text is replaced by the methods that suit it.
        merge: adds an adapter's tensors to a backbone's weights; None: the method cannot be merged.
    """

    build: Callable[[Target], Sequence[Insert]]
    numbers: Callable[[Shape, int], int]
    width: int = 0
    positions: str = ""
    refuse: Callable[[Target], str] = lambda _: ""
    merge: Callable[[nn.Module, Mapping[str, Tensor]], None] | None = None
