"""Marks of roles: how an encoder is told whether it reads a query, a passage, or a reader's question with a passage.

Token types as BERT has for pairs of texts, a reserved token at the front, or a learned vector that is added to the word
embeddings. Which one is part of a checkpoint's configuration, so that whoever encodes marks alike. Ours, for ROM (Fun, Gandhi,
Ravi, 2021), whose encoders of queries, passages and both are one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.files import InputError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

NONE = "none"
ROLE_MARKS = (NONE, "token_type", "marker", "embedding")
QUERY, PASSAGE, READER = range(3)
ROLE_FILE = "roles.safetensors"
# reserved tokens of a query, a passage and a reader's input: of BERT's, T5's and RoBERTa's vocabularies
MARKERS = (
    ("[unused1]", "[unused2]", "[unused3]"),
    ("<extra_id_97>", "<extra_id_98>", "<extra_id_99>"),
    ("madeupword0000", "madeupword0001", "madeupword0002"),
)
DEVIATION = 0.02  # of new vectors, as BERT's embeddings


class RoleMarks:
    """The marks of one backbone's texts.

    Args:
        kind: one of ROLE_MARKS.
        vectors: of each role, for `embedding`.

    Raises:
        InputError: for a backbone or tokenizer that cannot be marked so.
    """

    def __init__(self, kind: str, backbone: Any, tokenizer: Tokenizer, vectors: torch.nn.Module | None = None) -> None:
        self._kind = kind
        self._backbone = backbone
        self._vectors = vectors
        self._markers: list[int] = []
        described = backbone.config
        if kind == "token_type" and (types := getattr(described, "type_vocab_size", 0)) < 2:
            raise InputError(
                f"roles is token_type; a {described.model_type} model has {'one token type' if types else 'no token types'}, and 2 are needed,"
                " as BERT and ELECTRA have; roles embedding needs none"
            )
        if kind == "marker":
            found = ([number for name in names if (number := tokenizer.token_to_id(name)) is not None] for names in MARKERS)
            self._markers = next((ids for ids in found if len(ids) == 3), [])
            if not self._markers:
                first = ", ".join(names[0] for names in MARKERS)
                raise InputError(
                    f"roles is marker; the tokenizer has no reserved tokens ({first} and the two after it); roles embedding needs none"
                )

    def marker(self, role: int) -> int | None:
        """The token at the front of a text; None: none."""
        return self._markers[role] if self._markers else None

    def inputs(self, ids_BL: torch.Tensor, role_BL: torch.Tensor) -> dict[str, Any]:
        """What the backbone is given beside, or instead of, the ids.

        Args:
            role_BL: the role of each token, or [B, 1] of each text. A reader's tokens have their own role but with token types,
                of which there are two: those of its question are a query's, the others a passage's.
        """
        if self._kind == "token_type":
            return {"token_type_ids": role_BL.to(ids_BL.device).expand(ids_BL.shape)}
        if self._kind == "embedding" and self._vectors is not None:
            words_BLE = self._backbone.get_input_embeddings()(ids_BL)
            return {"input_ids": None, "inputs_embeds": words_BLE + self._vectors(role_BL.to(ids_BL.device))}
        return {}

    def of_reader(self, asked: list[int], length: int) -> torch.Tensor:
        """Roles [N, L] of readers' inputs, the first `asked` tokens of which are the question."""
        import torch

        if self._kind != "token_type":
            return torch.full((len(asked), 1), READER)
        return (torch.arange(length) >= torch.tensor(asked)[:, None]).long()


def new_vectors(backbone: Any) -> torch.nn.Module:
    """A vector for each role, as wide as the word embeddings."""
    import torch

    vectors = torch.nn.Embedding(3, backbone.get_input_embeddings().embedding_dim)
    torch.nn.init.normal_(vectors.weight, std=DEVIATION)
    return vectors


def load_vectors(folder: Path, backbone: Any) -> torch.nn.Module:
    """Those of a checkpoint. Raises: InputError where their file is missing or does not fit the backbone."""
    from safetensors.torch import load_file

    path = folder / ROLE_FILE
    vectors = new_vectors(backbone)
    wanted = vectors.weight.shape
    found = load_file(path) if path.is_file() else {}
    if set(found) != {"weight"} or found["weight"].shape != wanted:
        raise InputError(f"{path}: vectors of {wanted[0]} roles of {wanted[1]} numbers, named 'weight', are needed")  # type: ignore[index]
    vectors.load_state_dict(found)
    return vectors


def save_vectors(vectors: torch.nn.Module, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in vectors.state_dict().items()}, folder / ROLE_FILE)
