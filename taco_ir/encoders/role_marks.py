"""Role marks: how an encoder knows whether it reads a query, a passage, or a reader's question with a passage.

A mark is one of: token types, which BERT has for pairs of texts; a reserved token at the front; a learned vector added
to the word embeddings; or an adapter for each role (deep prompts or bottlenecks) on a backbone that trains with them.
The checkpoint's configuration records the type of mark. The marks are our own; ROM (Fun, Gandhi, Ravi, 2021) had the
idea of one encoder for queries, passages, and both together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from taco_ir.core.files import InputError
from taco_ir.encoders.config import Role
from taco_ir.encoders.weights import read_safetensors

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from taco_ir.encoders.adapters.adapter_set import Adapters

# methods of marks that are adapters; with `prefix`, texts can use all positions of the backbone
ADAPTER_MARKS = {"prompt": "prefix", "adapter": "adapter"}
ADAPTER_NAMES = {Role.QUERY: "queries", Role.PASSAGE: "passages", Role.READER: "reader"}
ROLE_FILE = "roles.safetensors"
# reserved tokens for a query, a passage and a reader's input, in the vocabularies of BERT, T5 and RoBERTa
MARKERS = (
    ("[unused1]", "[unused2]", "[unused3]"),
    ("<extra_id_97>", "<extra_id_98>", "<extra_id_99>"),
    ("madeupword0000", "madeupword0001", "madeupword0002"),
)
DEVIATION = 0.02  # of new vectors, as in BERT's embeddings


class RoleMarks:
    """Adds role marks to the inputs of one backbone.

    Args:
        kind: the type of mark, one of `config.ROLE_MARKS`.
        learned: the marks' parameters from `new_learned` or `load_learned`, for this backbone; None if there are none.

    Raises:
        InputError: for a backbone or tokenizer that does not support this type of mark.
    """

    def __init__(self, kind: str, backbone: Any, tokenizer: Tokenizer, learned: torch.nn.Module | None = None) -> None:
        self._kind = kind
        self._backbone = backbone
        self._learned = learned
        self._markers: list[int] = []
        described = backbone.config
        if kind == "token_type" and (types := getattr(described, "type_vocab_size", 0)) < 2:
            has = "one token type" if types else "no token types"
            raise InputError(
                f"roles is token_type; a {described.model_type} model has {has}, but 2 are needed; use the "
                "roles `embedding` instead"
            )
        if kind == "marker":
            for names in MARKERS:
                found = [number for name in names if (number := tokenizer.token_to_id(name)) is not None]
                if len(found) == len(names) and not self._markers:
                    self._markers = found
            if not self._markers:
                first = ", ".join(names[0] for names in MARKERS)
                raise InputError(
                    f"roles is marker; the tokenizer has no reserved tokens ({first} ...); roles embedding works "
                    "without them"
                )

    @property
    def adapters(self) -> Adapters | None:
        """The adapters of the roles, if marks are adapters, otherwise None; `inputs` activates one adapter."""
        return cast("Adapters", self._learned) if self._kind in ADAPTER_MARKS else None

    def marker(self, role: Role) -> int | None:
        """Return the id of the token at the front of texts with this role; None if marks are not tokens."""
        return self._markers[role] if self._markers else None

    def inputs(self, ids_BL: torch.Tensor, role_BL: torch.Tensor) -> dict[str, Any]:
        """Return the backbone's inputs that mark roles, in addition to token ids or in their place. An adapter for a
        role stays active afterwards.

        Args:
            role_BL: the role of each token, or [B, 1] of each text; with role adapters, all are the same. With token
                types, of which there are two, a reader's question counts as a query, and its passage as a passage.
        """
        if self._kind == "token_type":
            return {"token_type_ids": role_BL.to(ids_BL.device).expand(ids_BL.shape)}
        if self._kind == "embedding" and self._learned is not None:
            words_BLE = self._backbone.get_input_embeddings()(ids_BL)
            return {"input_ids": None, "inputs_embeds": words_BLE + self._learned(role_BL.to(ids_BL.device))}
        if self.adapters is not None:
            (role,) = set(role_BL.flatten().tolist())
            self.adapters.use(ADAPTER_NAMES[Role(role)])
        return {}

    def reader_roles(self, asked: list[int], length: int) -> torch.Tensor:
        """Return roles of N readers' inputs: [N, L] for token types, otherwise [N, 1]. Question n: asked[n] tokens."""
        import torch

        if self._kind != "token_type":
            return torch.full((len(asked), 1), Role.READER)
        return (torch.arange(length) >= torch.tensor(asked)[:, None]).long()


def new_learned(kind: str, backbone: Any) -> torch.nn.Module | None:
    """Create parameters for role marks; None if this type needs none. Raises: InputError for a wrong backbone."""
    import torch

    if kind == "embedding":
        vectors = torch.nn.Embedding(len(Role), backbone.get_input_embeddings().embedding_dim)
        torch.nn.init.normal_(vectors.weight, std=DEVIATION)
        return vectors
    if kind not in ADAPTER_MARKS:
        return None
    from taco_ir.encoders.adapters.adapter_set import Adapters
    from taco_ir.encoders.adapters.hook_points import shape_of
    from taco_ir.encoders.adapters.methods import width_of

    method = ADAPTER_MARKS[kind]
    try:
        adapters = Adapters(backbone, method, width_of(method, shape_of(backbone), 0, ""), list(ADAPTER_NAMES.values()))
    except InputError as error:
        raise InputError(
            f"roles is {kind}; {str(error).removeprefix('tune: ')}; roles embedding works with any backbone"
        ) from error
    backbone.requires_grad_(True)  # the backbone trains with them
    return adapters


def load_learned(kind: str, folder: Path, backbone: Any) -> torch.nn.Module | None:
    """Load the parameters of a checkpoint's role marks. Raises: InputError if the file is missing or does not fit."""
    import torch

    learned = new_learned(kind, backbone)
    if learned is None:
        return None
    path, own = folder / ROLE_FILE, _tensors(learned)
    found = read_safetensors(path) if path.is_file() else {}
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in own.items()}:
        name, value = next(iter(own.items()))
        needed = f"{len(own)} tensors for roles {kind} on this backbone"
        raise InputError(f"{path}: {needed} are needed, such as {name!r} of shape {list(value.shape)}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(found[name])
    return learned


def save_learned(learned: torch.nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in _tensors(learned).items()}
    save_file(tensors, folder / ROLE_FILE)


def _tensors(learned: torch.nn.Module) -> dict[str, Any]:
    """Return the tensors by their names in the file."""
    from taco_ir.encoders.adapters.adapter_set import Adapters

    return dict(learned.named_tensors() if isinstance(learned, Adapters) else learned.state_dict())
