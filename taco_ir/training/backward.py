"""From texts to gradients, in chunks of similar length; by GradCache where all activations at once are too many.

GradCache: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from taco_ir.core.hashes import hash_names
from taco_ir.core.settings import Settings
from taco_ir.training.encoder import DualEncoder, Text

CHUNK_TOKENS = {"cpu": 2048}  # of a chunk: sorted by length, chunks hold hardly a padding token
CHUNK_TOKENS_ELSEWHERE = 1 << 17  # accelerators want few large chunks
PASS_TOKENS = {"cpu": 200}  # what a pass costs beside its tokens
PASS_TOKENS_ELSEWHERE = 1 << 15  # launching kernels takes an accelerator longer than thousands of tokens


@dataclass(frozen=True)
class Arithmetic(Settings):
    """How a pass is computed.

    Attributes:
        bf16: multiply matrices in bfloat16.
        gradcache: texts of a chunk whose activations are kept at once; 0 keeps those of all.
    """

    bf16: bool = False
    gradcache: int = field(default=0, metadata={"min": 0})

    def context(self, device: torch.device) -> AbstractContextManager[object]:
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


def backward(
    model: DualEncoder,
    texts: Sequence[Text],
    loss_of: Callable[[Tensor], Tensor],
    arithmetic: Arithmetic,
    seed: Sequence[int | str],
) -> Tensor:
    """Add the gradient of `loss_of(vectors [N, D])` to the parameters'; the loss, a scalar where it was computed.

    Dropout of each chunk is drawn from `seed` and the chunk's number, so that GradCache's second pass repeats the first,
    and a run that was stopped repeats the one that was not.
    """
    chunks = list(_chunks(model, texts, arithmetic.gradcache))

    def encode(number: int) -> Tensor:
        seed_dropout(hash_names(*seed, number) >> 1, model.device)
        with arithmetic.context(model.device):
            vectors_BD: Tensor = model([texts[i] for i in chunks[number]])
            return vectors_BD.float()

    order = [i for chunk in chunks for i in chunk]
    if not arithmetic.gradcache:
        vectors_ND = _in_place([encode(number) for number in range(len(chunks))], order, model)
        loss = loss_of(vectors_ND)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()
    with torch.no_grad():
        vectors_ND = _in_place([encode(number) for number in range(len(chunks))], order, model)
    vectors_ND.requires_grad_()
    loss = loss_of(vectors_ND)
    loss.backward()  # type: ignore[no-untyped-call]
    if vectors_ND.grad is not None:
        for number, chunk in enumerate(chunks):
            if (vectors := encode(number)).requires_grad:  # passages of a frozen backbone have none
                vectors.backward(vectors_ND.grad[chunk])  # type: ignore[no-untyped-call]
    return loss.detach()


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed what draws dropout on `device` alone: torch.manual_seed prepares every kind of device there may be, for milliseconds."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _in_place(parts: list[Tensor], order: list[int], model: DualEncoder) -> Tensor:
    """Vectors of chunks, back in the order of the texts."""
    if not parts:
        return torch.zeros(0, model.dim, device=model.device)
    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[places.to(model.device)]


def _chunks(model: DualEncoder, texts: Sequence[Text], most: int) -> Iterator[list[int]]:
    """Positions of texts that a pass can read, of similar length: at most `most` texts, or any number where `most` is 0."""
    tokens = CHUNK_TOKENS.get(model.device.type, CHUNK_TOKENS_ELSEWHERE)
    fixed = PASS_TOKENS.get(model.device.type, PASS_TOKENS_ELSEWHERE)
    passes = [model.pass_of(text) for text in texts]
    for own in dict.fromkeys(passes):
        members = sorted((i for i, each in enumerate(passes) if each == own), key=lambda i: -len(texts[i].ids))
        ends = cheapest_cuts([len(texts[i].ids) for i in members], most or len(members), tokens, fixed)
        yield from (members[start:end] for start, end in pairwise([0, *ends]))


def cheapest_cuts(lengths: Sequence[int], most: int, tokens: int, fixed: int) -> list[int]:
    """Where to cut texts, longest first, so that padded tokens and passes cost the least: the end of each chunk.

    What a chunk from `start` costs is a line over its end, less steep the later it starts, and it may not end behind
    `last[start]`, which grows. So of two starts the later one is once and for all the better one from some end on, and
    of all starts only those that take over from each other in turn need be kept: one pass over the texts.

    Args:
        lengths: descending.
        most, tokens: texts of a chunk, and padded tokens of one that has several texts.
        fixed: what a pass costs beside its tokens, in tokens.
    """
    last = [start + max(1, min(most, tokens // length if length else most)) for start, length in enumerate(lengths)]
    above: list[int] = []  # of each start, the cost of all before it less its own length times its place
    start_of: list[int] = []

    def takes_over(early: int, late: int) -> int:
        """The first end to which a chunk from `late` is cheaper than one from `early`, which may not reach it."""
        more, flatter = above[late] - above[early], lengths[early] - lengths[late]
        cheaper = more // flatter + 1 if flatter else late + 1 if more < 0 else last[early] + 1
        return min(cheaper, last[early] + 1)

    cost = 0
    kept: deque[tuple[int, int]] = deque()  # starts, each with the end from which on it is the best
    for start, length in enumerate(lengths):
        above.append(cost - length * start)
        turn = start + 1
        while kept and (turn := takes_over(kept[-1][0], start)) <= kept[-1][1]:
            kept.pop()
        kept.append((start, turn))
        while len(kept) > 1 and kept[1][1] <= start + 1:
            kept.popleft()
        best = kept[0][0]
        cost = above[best] + lengths[best] * (start + 1) + fixed
        start_of.append(best)
    ends = []
    end = len(lengths)
    while end:
        ends.append(end)
        end = start_of[end - 1]
    return ends[::-1]
