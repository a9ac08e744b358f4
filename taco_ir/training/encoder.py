"""The encoder while it trains: one backbone for queries and passages, or two, with what a checkpoint folder needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import Parameter

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.encoders.adapters.adapter_set import Adapters
from taco_ir.encoders.adapters.folder import AdapterRecord
from taco_ir.encoders.backbone import load_backbone
from taco_ir.encoders.config import EncoderConfig, Role
from taco_ir.encoders.model_folder import HEAD_FILE, Kind, ModelFolder
from taco_ir.encoders.pooling import Ids, embed, pad, tokenize
from taco_ir.encoders.role_marks import ADAPTER_MARKS, ROLE_FILE, RoleMarks, load_learned, new_learned, save_learned
from taco_ir.encoders.text_encoder import TextEncoder, Tower

TOWERS = ("query", "passage")
LARGE_TABLE = 1024  # rows from which a gradient of the touched ones alone is the faster


class Text(NamedTuple):
    """A tokenised text and the tower, or a tuned backbone's module ("": none), that reads it.

    Attributes:
        labels: where there is something to fill in; -100 elsewhere.
        role: what the text is to the encoder (see encoders/role_marks.py).
    """

    tower: str
    ids: Ids
    labels: Ids | None = None
    role: Role = Role.PASSAGE


class DualEncoder(nn.Module):
    """Backbones with one configuration. Tied towers are one module under two names.

    Attributes:
        config: kept in the checkpoint.
        folder: the model folder it was loaded from; its tokenizer files go into checkpoints.
        tuning, record: the modules that train instead of the backbone, and what their folder says; None where it trains itself.
    """

    def __init__(self, folder: Path, config: EncoderConfig, untied: bool) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.untied = untied
        self.tuning: Adapters | None = None
        self.record: AdapterRecord | None = None
        self._tokenizers: dict[str, Tokenizer] = {}
        self._marks: dict[str, RoleMarks] = {}
        self._tokenizer_files: dict[
            str, dict[str, bytes]
        ] = {}  # kept: the folder may be a checkpoint that is removed meanwhile
        self.towers = nn.ModuleDict()
        for name in TOWERS if untied else ("passage",):
            source = folder / name if ModelFolder(folder).kind is Kind.TOWERS else folder
            backbone, tokenizer, head = load_backbone(
                ModelFolder(source), config if (source / HEAD_FILE).is_file() else _headless(config)
            )
            if config.head and head is None:
                head = nn.Linear(backbone.config.hidden_size, config.head, bias=False)  # type: ignore[union-attr,arg-type]
            self.towers[name] = nn.ModuleDict({"backbone": backbone} | ({"head": head} if head is not None else {}))
            there = (source / ROLE_FILE).is_file()
            learned = load_learned(config.roles, source, backbone) if there else new_learned(config.roles, backbone)
            if learned is not None:
                self.towers[name]["roles"] = learned  # type: ignore[operator]
            self._marks[name] = RoleMarks(config.roles, backbone, tokenizer, learned)
            self._tokenizers[name] = tokenizer
            self._tokenizer_files[name] = {
                path.name: path.read_bytes() for path in ModelFolder(source).tokenizer_files()
            }

    def backbone(self, tower: str) -> nn.Module:
        return self.towers[tower]["backbone"]  # type: ignore[index,no-any-return]

    def _name(self, tower: str) -> str:
        return tower if self.untied else "passage"

    def queries(self, texts: Sequence[str], task: str) -> list[Text]:
        tower = self._name("query")
        marker = self._marks[tower].marker(Role.QUERY)
        ids, _ = tokenize(
            self._tokenizers[tower], self.config.query_texts(texts, task), self.config.max_query_tokens(task), marker
        )
        return [Text(self._reader(tower, task), ids_L, role=Role.QUERY) for ids_L in ids]

    def passages(self, passages: Sequence[Passage]) -> list[Text]:
        tower = self._name("passage")
        marker = self._marks[tower].marker(Role.PASSAGE)
        ids, _ = tokenize(
            self._tokenizers[tower], list(map(self.config.passage_text, passages)), self.config.passage_length, marker
        )
        return [Text(self._reader(tower, None), ids_L) for ids_L in ids]

    def _reader(self, tower: str, task: str | None) -> str:
        """What reads a query of `task`, or a passage where that is None: `tower`, or the module for it."""
        if self.record is None:
            return tower
        if task is None:
            return self.record.passage_adapter or ""
        return self.record.query_adapter(task) or ""

    def tune(self, tuning: Adapters, record: AdapterRecord) -> None:
        """Train modules on the backbone, which they froze, instead of it; a head stays as it is, too."""
        for name, part in self.towers["passage"].items():  # type: ignore[operator]
            if name != "backbone":
                part.requires_grad_(False)
        self.tuning, self.record = tuning, record

    def pass_of(self, text: Text) -> tuple[str, Role]:
        """Equal for texts that one pass can read: of one tower or module and, where roles have modules, of one role."""
        return text.tower, text.role if self.config.roles in ADAPTER_MARKS else Role.PASSAGE

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Vectors [B, D] of texts that one pass can read (see `pass_of`)."""
        if self.tuning is not None:
            self.tuning.use(texts[0].tower or None)
        name = "passage" if self.tuning is not None else texts[0].tower
        parts = dict(self.towers[name].items())  # type: ignore[operator]
        ids_BL, mask_BL, marks = self.padded(name, texts)
        return embed(parts["backbone"], self.config, ids_BL, mask_BL, parts.get("head"), **marks)

    def padded(self, tower: str, texts: Sequence[Text]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Ids and attention mask [B, L] of texts that `tower` reads, on its device, and the marks of their roles."""
        backbone = self.towers[tower]["backbone"]  # type: ignore[index]
        ids_BL, mask_BL = (
            each.to(self.device) for each in pad([text.ids for text in texts], backbone.config.pad_token_id or 0)
        )
        return ids_BL, mask_BL, self._marks[tower].inputs(ids_BL, torch.tensor([[text.role] for text in texts]))

    def separator(self, candidates: Sequence[str]) -> str:
        """The first of `candidates` that the tokenizer has as a token, a colon where it has none."""
        tokenizer = self._tokenizers[self._name("query")]
        return next((text for text in candidates if tokenizer.token_to_id(text) is not None), ":")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dim(self) -> int:
        return self.config.head or int(self.towers["passage"]["backbone"].config.hidden_size)  # type: ignore[index]

    @property
    def sizes(self) -> dict[str, int]:
        """How many parameters train, and how many the backbones have without what is trained on them."""
        every = sum(part.numel() for tower in self.towers.values() for part in tower["backbone"].parameters())  # type: ignore[index]
        trained = sum(param.numel() for _, param in self.trained())
        return {"trained": trained, "backbone": every if self.tuning is None else self.tuning.shape.total}

    def sparse_tables(self, sparse: bool) -> None:
        """Let large tables have gradients of the rows that a batch touches alone, or dense ones, mostly zeros."""
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = sparse and module.num_embeddings >= LARGE_TABLE

    def embedding_tables(self) -> set[int]:
        """Identities of the parameters that are large tables of embeddings: a batch touches few of their rows."""
        tables = (module for module in self.modules() if isinstance(module, nn.Embedding))
        return {id(table.weight) for table in tables if table.num_embeddings >= LARGE_TABLE}

    def freeze(self, embeddings: bool, layers: int) -> None:
        """Keep embeddings, or the first `layers` layers, as they are. Raises: InputError for more layers than there are."""
        for tower in self.towers.values():
            backbone = tower["backbone"]  # type: ignore[index]
            if embeddings:
                for module in backbone.modules():
                    if isinstance(module, nn.Embedding):
                        module.weight.requires_grad_(False)
            stacks = (
                list(module) for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module)
            )
            stack: list[nn.Module] = next((stack for stack in stacks if len({type(layer) for layer in stack}) == 1), [])
            if layers > len(stack):
                raise InputError(f"freeze_layers is {layers}; the backbone has {len(stack)} layers")
            for layer in stack[:layers]:
                layer.requires_grad_(False)

    def set_dropout(self, share: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(getattr(module, "dropout", None), float):
                setattr(module, "dropout", share)  # noqa: B010  (T5's attention keeps a number; typed as a module)

    def checkpoint_gradients(self) -> None:
        """Compute activations again in the backward pass instead of keeping them."""
        for name, tower in self.towers.items():
            modules = self.tuning or self._marks[name].adapters
            settings = {"use_reentrant": False} | ({"context_fn": modules.repeated} if modules else {})
            tower["backbone"].gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)  # type: ignore[index]

    def text_encoder(self) -> TextEncoder:
        """The same weights as search uses them; leaves the backbones in evaluation mode."""
        weights = self.record.digest if self.record is not None else "training"
        towers = {}
        for name, tower in self.towers.items():
            parts = dict(tower.items())  # type: ignore[operator]
            backbone, head, roles = parts["backbone"], parts.get("head"), parts.get("roles")
            tokenizer, device = self._tokenizers[name], str(self.device)
            towers[name] = Tower(backbone, tokenizer, self.config, weights, device=device, head=head, roles=roles)
        own = {Role.PASSAGE: towers["passage"], Role.QUERY: towers[self._name("query")]}
        return TextEncoder(own, self.folder, adapters=self.tuning, record=self.record)

    def save(self, folder: Path) -> None:
        """Write a folder that `load_encoder` reads, one for each tower where they are two; of a tuned backbone its modules alone."""
        if self.tuning is not None and self.record is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self.tuning.save(folder)
            self.record.save(folder)
            self.config.save(folder)
            return
        for name, tower in self.towers.items():
            target = folder / name if self.untied else folder
            target.mkdir(parents=True, exist_ok=True)
            parts = dict(tower.items())  # type: ignore[operator]
            parts["backbone"].save_pretrained(target)
            self.config.save(target)
            if "head" in parts:
                save_file({"weight": parts["head"].weight.detach().cpu().contiguous()}, target / HEAD_FILE)
            if "roles" in parts:
                save_learned(parts["roles"], target)
            for file, data in self._tokenizer_files[name].items():
                (target / file).write_bytes(data)

    def save_trained(self, folder: Path) -> None:
        """Write the model that a training ends with."""
        self.save(folder)

    def trained(self) -> list[tuple[str, Parameter]]:
        """Names and parameters that training changes; those that vectors do not depend on (a pooler) left out."""
        if self.tuning is not None:
            return [(name, param) for name, param in self.tuning.named_tensors().items() if param.requires_grad]
        return [
            (name, param) for name, param in self.named_parameters() if param.requires_grad and ".pooler." not in name
        ]


def _headless(config: EncoderConfig) -> EncoderConfig:
    from dataclasses import replace

    return replace(config, head=0)
