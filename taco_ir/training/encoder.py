"""The encoder during training, with one backbone for queries and passages or two. It also writes model folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.encoders.adapters.adapter_set import Adapters
from taco_ir.encoders.adapters.folder import AdapterRecord
from taco_ir.encoders.backbone import load_backbone
from taco_ir.encoders.config import EncoderConfig, Role
from taco_ir.encoders.head import new_head, save_head
from taco_ir.encoders.model_folder import Kind, ModelFolder
from taco_ir.encoders.module_files import write_description
from taco_ir.encoders.pooling import Ids, embed, pad, tokenize
from taco_ir.encoders.role_marks import ADAPTER_MARKS, ROLE_FILE, RoleMarks, load_learned, new_learned, save_learned
from taco_ir.encoders.text_encoder import TextEncoder, Tower

TOWERS = ("query", "passage")
LARGE_TABLE = 1024  # rows; in larger tables, gradients of the used rows alone are faster


class Text(NamedTuple):
    """A tokenised text, with the name of the module that encodes it.

    Attributes:
        tower: the tower (query or passage encoder). With adapters: the adapter, or "" for the backbone alone.
        labels: original ids of masked tokens, and -100 for all others; None if no token is masked.
    """

    tower: str
    ids: Ids
    labels: Ids | None = None
    role: Role = Role.PASSAGE


class DualEncoder(nn.Module):
    """A query encoder and a passage encoder with one configuration. If they share weights, both are the same module.

    Attributes:
        config: the configuration to save in checkpoints.
        folder: the model folder from which the encoder was loaded.
        adapters, record: the adapters that are trained instead of the backbone, and their record; or None.
    """

    def __init__(self, folder: Path, config: EncoderConfig, untied: bool) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.untied = untied
        self.adapters: Adapters | None = None
        self.record: AdapterRecord | None = None
        self._tokenizers: dict[str, Tokenizer] = {}
        self._marks: dict[str, RoleMarks] = {}
        self._tokenizer_files: dict[str, dict[str, bytes]] = {}  # a checkpoint's folder may be removed later
        self.towers = nn.ModuleDict()
        for name in TOWERS if untied else ("passage",):
            source = folder / name if ModelFolder(folder).kind is Kind.TOWERS else folder
            own = ModelFolder(source)
            backbone, tokenizer, head = load_backbone(own, config if own.has_head else replace(config, head=0))
            if config.head and head is None:
                head = new_head(config, int(backbone.config.hidden_size))  # type: ignore[union-attr,arg-type]
            self.towers[name] = nn.ModuleDict({"backbone": backbone} | ({"head": head} if head is not None else {}))
            has_roles = (source / ROLE_FILE).is_file()
            learned = load_learned(config.roles, source, backbone) if has_roles else new_learned(config.roles, backbone)
            if learned is not None:
                self.towers[name]["roles"] = learned  # type: ignore[operator]
            self._marks[name] = RoleMarks(config.roles, backbone, tokenizer, learned)
            self._tokenizers[name] = tokenizer
            files = own.tokenizer_files()
            self._tokenizer_files[name] = {path.name: path.read_bytes() for path in files}

    def backbone(self, tower: str) -> Any:  # a model of transformers
        return self.towers[tower]["backbone"]  # type: ignore[index]

    def tower_modules(self, tower: str) -> dict[str, Any]:
        """Returns the modules of a tower by name: `backbone` and, if the tower has them, `head` and `roles`."""
        return dict(self.towers[tower].items())  # type: ignore[operator]

    def tokenize_queries(self, texts: Sequence[str], task: str) -> list[Text]:
        tower = "query" if self.untied else "passage"
        reader = tower if self.record is None else self.record.query_adapter(task) or ""
        texts = self.config.query_texts(texts, task)
        return self._tokenize(tower, reader, texts, self.config.max_query_tokens(task), Role.QUERY)

    def tokenize_passages(self, passages: Sequence[Passage], length: int = 0) -> list[Text]:
        """Tokenises passages. Texts are cut after `length` tokens; 0: after the length used in search."""
        reader = "passage" if self.record is None else self.record.passage_adapter or ""
        texts = [self.config.passage_text(passage) for passage in passages]
        return self._tokenize("passage", reader, texts, length or self.config.passage_length, Role.PASSAGE)

    def _tokenize(self, tower: str, reader: str, texts: Sequence[str], length: int, role: Role) -> list[Text]:
        ids, _ = tokenize(self._tokenizers[tower], texts, length, self._marks[tower].marker(role))
        return [Text(reader, ids_L, role=role) for ids_L in ids]

    def token_ids(self, texts: Sequence[str]) -> list[Ids]:
        """Returns the token ids of whole texts, without special tokens."""
        tokenizer = self._tokenizers["passage"]
        tokenizer.no_truncation()
        every = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int64) for each in every]

    def attach_adapters(self, adapters: Adapters, record: AdapterRecord) -> None:
        """Adds adapters, which are trained while the backbone and its head are frozen."""
        for name, module in self.tower_modules("passage").items():
            if name != "backbone":
                module.requires_grad_(False)
        self.adapters, self.record = adapters, record

    def pass_key(self, text: Text) -> tuple[str, Role]:
        """Returns a key that is equal for texts that can share a forward pass: same tower and same adapters."""
        return text.tower, text.role if self.config.roles in ADAPTER_MARKS else Role.PASSAGE

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Returns the vectors [B, D] of texts, which must have the same `pass_key`."""
        if self.adapters is not None:
            self.adapters.use(texts[0].tower or None)
        name = "passage" if self.adapters is not None else texts[0].tower
        modules = self.tower_modules(name)
        ids_BL, mask_BL, marks = self.pad_texts(name, texts)
        return embed(modules["backbone"], self.config, ids_BL, mask_BL, modules.get("head"), **marks)

    def pad_texts(self, tower: str, texts: Sequence[Text]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns token ids [B, L], attention mask [B, L], and inputs that mark the roles of texts, on the device."""
        pad_id = self.backbone(tower).config.pad_token_id or 0
        ids_BL, mask_BL = (each.to(self.device) for each in pad([text.ids for text in texts], pad_id))
        return ids_BL, mask_BL, self._marks[tower].inputs(ids_BL, torch.tensor([[text.role] for text in texts]))

    def find_separator(self, candidates: Sequence[str]) -> str:
        """Returns the first candidate that is one token for the query encoder's tokenizer, or else a colon."""
        tokenizer = self._tokenizers["query" if self.untied else "passage"]
        return next((text for text in candidates if tokenizer.token_to_id(text) is not None), ":")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dim(self) -> int:
        return self.config.head or int(self.backbone("passage").config.hidden_size)

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of parameters: `trained` counts trained ones, `backbone` those of the backbones without adapters."""
        every = sum(param.numel() for name in self.towers for param in self.backbone(name).parameters())
        trained = sum(param.numel() for _, param in self.trained_parameters())
        return {"trained": trained, "backbone": every if self.adapters is None else self.adapters.shape.total}

    def large_tables(self) -> list[nn.Embedding]:
        """Returns the embedding tables that are so large that a batch uses only few of their rows."""
        tables = (module for module in self.modules() if isinstance(module, nn.Embedding))
        return [table for table in tables if table.num_embeddings >= LARGE_TABLE]

    def use_sparse_tables(self, sparse: bool) -> None:
        """Chooses sparse or dense gradients for large embedding tables. Sparse gradients have only the rows used."""
        for table in self.large_tables():
            table.sparse = sparse

    def freeze(self, embeddings: bool, layers: int) -> None:
        """Freezes all embeddings if asked, and the lowest `layers` layers. Raises InputError if fewer layers exist."""
        for backbone in map(self.backbone, self.towers):
            if embeddings:
                for module in backbone.modules():
                    if isinstance(module, nn.Embedding):
                        module.weight.requires_grad_(False)
            lists = (list(module) for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module))
            stack: list[nn.Module] = next((own for own in lists if len({type(layer) for layer in own}) == 1), [])
            if layers > len(stack):
                raise InputError(f"freeze_layers is {layers}; it must be at most {len(stack)}, the number of layers")
            for layer in stack[:layers]:
                layer.requires_grad_(False)

    def set_dropout(self, share: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(getattr(module, "dropout", None), float):
                setattr(module, "dropout", share)  # noqa: B010  (T5's attention keeps a number; typed as a module)

    def use_plain_attention(self) -> None:
        """Computes attention by matrix products and a softmax, instead of torch's fused kernel.

        In bfloat16 on a CPU, the fused kernel has a slow gradient, and a step takes a third longer.
        """
        for backbone in map(self.backbone, self.towers):
            if backbone.config._attn_implementation == "sdpa":  # this attribute has no public name
                backbone.set_attn_implementation("eager")

    def checkpoint_gradients(self) -> None:
        """Turns on gradient checkpointing: the backward pass computes activations again, which saves memory."""
        for name in self.towers:
            adapters = self.adapters or self._marks[name].adapters
            settings = {"use_reentrant": False} | ({"context_fn": adapters.repeated} if adapters else {})
            self.backbone(name).gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)

    def as_text_encoder(self) -> TextEncoder:
        """Returns an encoder for search that shares these weights, and puts the backbones in evaluation mode."""
        weights = self.record.digest if self.record is not None else "training"
        towers = {}
        for name in self.towers:
            modules, tokenizer = self.tower_modules(name), self._tokenizers[name]
            backbone, head, roles = modules["backbone"], modules.get("head"), modules.get("roles")
            towers[name] = Tower(
                backbone, tokenizer, self.config, weights, device=str(self.device), head=head, roles=roles
            )
        own = {Role.PASSAGE: towers["passage"], Role.QUERY: towers["query" if self.untied else "passage"]}
        return TextEncoder(own, self.folder, adapters=self.adapters, record=self.record)

    def save(self, folder: Path) -> None:
        """Writes a folder that `load_encoder` reads. Two towers get subfolders; with adapters, only these are saved."""
        if self.adapters is not None and self.record is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.adapters.save(folder)
            self.record.save(folder)
            self.config.save(folder)
            return
        for name in self.towers:
            target = folder / name if self.untied else folder
            target.mkdir(parents=True, exist_ok=True)
            modules = self.tower_modules(name)
            modules["backbone"].save_pretrained(target)
            self.describe(target)
            if "head" in modules:
                save_head(modules["head"], target)
            if "roles" in modules:
                save_learned(modules["roles"], target)
            for file, data in self._tokenizer_files[name].items():
                (target / file).write_bytes(data)

    def describe(self, folder: Path) -> None:
        """Writes the configuration into the backbone's folder; it says how texts become vectors."""
        write_description(folder, self.config, int(self.backbone("passage").config.hidden_size))

    def save_trained(self, folder: Path) -> None:
        """Writes the final model of a training."""
        self.save(folder)

    def trained_parameters(self) -> list[tuple[str, Parameter]]:
        """Returns (name, parameter) of each trainable parameter, without a pooler that does not affect the vectors."""
        own = self.named_parameters() if self.adapters is None else self.adapters.named_tensors().items()
        left_out = "" if self.config.pooling == "pooler" else ".pooler."
        return [(name, param) for name, param in own if param.requires_grad and not (left_out and left_out in name)]
