"""Computes the gradient of a loss on texts, which are encoded in chunks of similar length. GradCache saves memory.

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

CHUNK_TOKENS = {"cpu": 2048}  # maximum in a chunk; texts sorted by length need hardly any padding
CHUNK_TOKENS_ELSEWHERE = 1 << 17  # accelerators want few large chunks
PASS_TOKENS = {"cpu": 200}  # fixed cost of a pass, in tokens
PASS_TOKENS_ELSEWHERE = 1 << 15  # on accelerators, launching kernels takes longer than thousands of tokens


@dataclass(frozen=True)
class Arithmetic(Settings):
    """How the encoder computes during training.

    Attributes:
        bf16: multiply matrices in bfloat16.
        gradcache: number of texts whose activations are kept at the same time (GradCache); 0: all texts.
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
    """Encodes texts, computes their loss, and adds its gradient to `.grad` of the parameters; returns the scalar loss.

    `loss_of` computes the loss from the vectors [N, D] of all N texts. Texts are encoded in chunks; a chunk's dropout
    depends only on `seed` and its number. So GradCache's second pass repeats the first, and resuming changes nothing.
    """
    chunks = list(_plan_chunks(model, texts, arithmetic.gradcache))

    def encode(number: int) -> Tensor:
        seed_dropout(hash_names(*seed, number) >> 1, model.device)
        with arithmetic.context(model.device):
            vectors_BD: Tensor = model([texts[i] for i in chunks[number]])
            return vectors_BD.float()

    order = [i for chunk in chunks for i in chunk]
    with torch.set_grad_enabled(not arithmetic.gradcache):
        vectors_ND = _restore_order([encode(number) for number in range(len(chunks))], order, model)
    if arithmetic.gradcache:
        vectors_ND.requires_grad_()
    loss = loss_of(vectors_ND)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    if arithmetic.gradcache and vectors_ND.grad is not None:
        for number, chunk in enumerate(chunks):
            if (vectors := encode(number)).requires_grad:  # passages of a frozen backbone have no gradient
                vectors.backward(vectors_ND.grad[chunk])  # type: ignore[no-untyped-call]
    return loss.detach()


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds dropout on one device. On a CPU this is faster than torch.manual_seed, which seeds all devices."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _restore_order(parts: list[Tensor], order: list[int], model: DualEncoder) -> Tensor:
    """Returns the chunks' vectors in the order of the texts."""
    if not parts:
        return torch.zeros(0, model.dim, device=model.device)
    places = torch.empty(len(order), dtype=torch.long)
    places[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[places.to(model.device)]


def _plan_chunks(model: DualEncoder, texts: Sequence[Text], most: int) -> Iterator[list[int]]:
    """Yields the positions of each chunk's texts, which have similar lengths and one pass key; `most` 0: no limit."""
    passes = [model.pass_key(text) for text in texts]
    for own in dict.fromkeys(passes):
        members = [i for i, each in enumerate(passes) if each == own]
        for chunk in chunk_by_length([len(texts[i].ids) for i in members], model.device, most):
            yield [members[place] for place in chunk]


def chunk_by_length(lengths: Sequence[int], device: torch.device, most: int = 0) -> list[list[int]]:
    """Divides texts into chunks of similar length so that encoding takes the least time; the longest texts come first.

    Args:
        lengths: number of tokens of each text.
        most: maximum number of texts in a chunk; 0: no limit.

    Returns:
        For each chunk, the positions of its texts in `lengths`.
    """
    tokens = CHUNK_TOKENS.get(device.type, CHUNK_TOKENS_ELSEWHERE)
    fixed = PASS_TOKENS.get(device.type, PASS_TOKENS_ELSEWHERE)
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    ends = plan_cuts([lengths[place] for place in order], most or len(order), tokens, fixed)
    return [order[start:end] for start, end in pairwise([0, *ends])]


def plan_cuts(lengths: Sequence[int], most: int, tokens: int, fixed: int) -> list[int]:
    """Cuts a list of texts into chunks with the least total cost; returns the end of each chunk in the list.

    A chunk costs its tokens, including padding, plus `fixed`. The cost of a chunk from a given start is linear in its
    end, and less steep for later starts. So once a later start is cheaper than an earlier one, it stays cheaper. Only
    starts that are the cheapest for some end are kept, so one pass over the texts is enough.

    Args:
        lengths: number of tokens of each text, in descending order.
        most: maximum number of texts in a chunk.
        tokens: maximum number of tokens in a chunk of several texts, including padding.
        fixed: cost of encoding a chunk of any size, in tokens.
    """
    last = [start + max(1, min(most, tokens // length if length else most)) for start, length in enumerate(lengths)]
    above: list[int] = []  # of each start: the cost of all texts before it, minus its own length times its position
    start_of: list[int] = []

    def takes_over(early: int, late: int) -> int:
        """Returns the first end for which a chunk from `late` is cheaper, or which one from `early` cannot reach."""
        more, flatter = above[late] - above[early], lengths[early] - lengths[late]
        cheaper = more // flatter + 1 if flatter else late + 1 if more < 0 else last[early] + 1
        return min(cheaper, last[early] + 1)

    cost = 0
    kept: deque[tuple[int, int]] = deque()  # (start, the first end for which it is the best)
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
