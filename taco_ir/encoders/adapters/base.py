"""The interface of what is hooked into a frozen backbone: named sets of tensors, of which one at most is in use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import Parameter


class Part(nn.Module):
    """Named sets of trained tensors. A part is built with no set; `active` names the one that passes go through."""

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
        """What a model folder holds of a set: its tensors, if the part says nothing else."""
        return self.tensors(name)

    def use(self, name: str | None) -> None:
        """Let passes go through the set `name`; None: through the backbone alone."""
        self.active = name
