"""A frozen backbone with named modules of one method, of which one at a time is in use."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.encoders.adapters.base import Part
from taco_ir.encoders.adapters.bitfit import Biases
from taco_ir.encoders.adapters.bottleneck import PLACES, Bottlenecks
from taco_ir.encoders.adapters.deep_prompts import DROPOUT, DeepPrompts
from taco_ir.encoders.adapters.hook_points import shape_of, sites_of
from taco_ir.encoders.adapters.lora import Lora
from taco_ir.encoders.adapters.sizes import POSITIONS, Shape, is_shifted

Kind = TypeVar("Kind", bound=Tensor)
PROBE_DEVIATION = 0.05  # of the noise under which every tensor must matter: at the start most are zero
NO_EFFECT = ("key.bias", "k_lin.bias")  # softmax is the same for all of them: gradients are rounding errors


class Tuning(nn.Module):
    """Named modules of `method` and `width` on `backbone`, which is frozen.

    Args:
        positions: of texts behind prompts, where they are not the method's own (see `POSITIONS`).
        reparameterised: names of modules whose prompts are, while they train (see `DeepPrompts`).

    Attributes:
        names: of the modules, in the order in which they were made.
        shape: of the backbone, for counts.
        active: the one in use; None: the backbone alone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        method: str,
        width: int,
        names: Sequence[str],
        positions: str = "",
        reparameterised: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.method = method
        self.width = width
        self.names = list(names)
        self.reparameterised = frozenset(reparameterised)
        self.active: str | None = None
        self._backbone = [backbone]  # a list: no part of the module tree
        backbone.requires_grad_(False)
        self.shape = shape_of(backbone)
        self.parts = nn.ModuleList(_parts(backbone, self.shape, method, width, is_shifted(method, positions), self.reparameterised))
        for name in names:
            for part in self._own():
                part.add(name)
        self.use(None)

    def use(self, name: str | None) -> None:
        """Let passes go through the module `name` from now on; None: through the backbone alone."""
        if name == self.active:
            return
        if name is not None and name not in self.names:
            raise ValueError(f"module {name!r} is none of {self.names}")
        for part in self._own():
            part.use(name)
        self.active = name

    @contextmanager
    def used(self, name: str | None) -> Iterator[None]:
        """Go through the module `name` inside."""
        before = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    def repeated(self) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        """Contexts of a pass and of its repetition under gradient checkpointing, which comes when another module may be in use."""
        return nullcontext(), self.used(self.active)

    def tensors(self, name: str) -> dict[str, Parameter]:
        """The trained tensors of a module, by names that are the same for all modules."""
        return _joined([part.tensors(name) for part in self._own()])

    def named_tensors(self) -> dict[str, Parameter]:
        """Those of all modules, named `module.tensor`."""
        return {f"{name}.{key}": tensor for name in self.names for key, tensor in self.tensors(name).items()}

    def stored(self) -> dict[str, Tensor]:
        """What a model folder holds: the same, but of reparameterised prompts the vectors that they are."""
        of_modules = {name: _joined([part.stored(name) for part in self._own()]) for name in self.names}
        return {f"{name}.{key}": tensor.detach() for name, tensors in of_modules.items() for key, tensor in tensors.items()}

    def train_only(self, names: Sequence[str]) -> None:
        """Keep all modules but these as they are."""
        for name in self.names:
            for tensor in self.tensors(name).values():
                tensor.requires_grad_(name in names)

    def load(self, found: dict[str, Tensor], where: str) -> None:
        """Take tensors over. Raises: InputError, naming the file, for other names or shapes."""
        own = self.named_tensors()
        for name in sorted({*own, *found}):
            if name not in own or name not in found or own[name].shape != found[name].shape:
                raise InputError(f"{where}: {name} does not fit modules of {self.method}, width {self.width}, for {', '.join(self.names)}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(found[name])

    def check(self, vectors_of: Callable[[], Tensor]) -> None:
        """Make sure that every module changes what `vectors_of` computes and that each of its tensors gets a gradient.

        The numbers of the modules are other ones meanwhile, since most methods begin with zeros.

        Raises:
            InputError: naming module and tensor.
        """
        with torch.no_grad(), self.used(None):
            bare = vectors_of()
        for name in self.names:
            tensors = self.tensors(name)
            with self.used(name), torch.enable_grad(), _other_numbers(list(tensors.values())):
                vectors = vectors_of()
                weights_D = torch.arange(1, vectors.shape[-1] + 1, device=vectors.device)  # a plain sum is constant after a layer norm
                loss = (vectors**2 * weights_D).sum()
                found = (
                    torch.autograd.grad(loss, list(tensors.values()), allow_unused=True) if loss.requires_grad else [None] * len(tensors)
                )
            idle = [key for key, grad in zip(tensors, found, strict=True) if not _moves(key, grad)]
            if idle or torch.equal(vectors, bare):
                what = (
                    f"{len(idle)} of {len(tensors)} tensors get no gradient, first {idle[0]}" if idle else "it does not change the vectors"
                )
                raise InputError(f"tune: {self.method} does not work on this backbone, module {name!r}: {what}")

    def _own(self) -> list[Part]:
        return list(self.parts)  # type: ignore[arg-type]


def _joined(tensors: Sequence[Mapping[str, Kind]]) -> dict[str, Kind]:
    """A module's tensors of several parts, named `number of the part.tensor`; those of one as they are."""
    if len(tensors) == 1:
        return dict(tensors[0])
    return {f"{number}.{key}": tensor for number, of_part in enumerate(tensors) for key, tensor in of_part.items()}


@contextmanager
def _other_numbers(tensors: Sequence[Parameter]) -> Iterator[None]:
    """Some noise on all tensors inside, that takes gradients; exactly as they were afterwards."""
    generator = torch.Generator().manual_seed(0)
    kept = [(tensor.detach().clone(), tensor.requires_grad) for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data += PROBE_DEVIATION * torch.randn(tensor.shape, generator=generator).to(tensor.device)
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor, (values, trained) in zip(tensors, kept, strict=True):
            tensor.data.copy_(values)
            tensor.requires_grad_(trained)


def _moves(key: str, grad: Tensor | None) -> bool:
    return grad is not None and (key.endswith(NO_EFFECT) or bool(grad.ne(0).any()))


def _parts(backbone: nn.Module, shape: Shape, method: str, width: int, shifted: bool, reparameterised: Collection[str]) -> list[Part]:
    """What `method` hooks into the backbone."""
    sites = sites_of(backbone)
    if method == "bitfit":
        return [Biases(backbone)]
    if method == "lora":
        return [Lora(backbone, sites, shape, width)]
    parts: list[Part] = []
    if method in POSITIONS:
        parts.append(DeepPrompts(backbone, sites, shape, width, DROPOUT * (method == "prompt"), shifted, reparameterised))
    if method in PLACES:
        parts.append(Bottlenecks(sites, method, shape.hidden, width))
    return parts
