"""Search with a tuned model: queries go through their task's module, passages through theirs, all on one backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco_ir.core.files import fingerprint
from taco_ir.core.types import Passage, Vectors
from taco_ir.encoders.adapters import routing
from taco_ir.encoders.adapters.adapted import Tuning
from taco_ir.encoders.adapters.folder import BARE, TuningRecord, module_digest
from taco_ir.encoders.config import ANY_TASK, EncoderConfig
from taco_ir.encoders.text_encoder import TextEncoder

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class TunedEncoder(TextEncoder):
    """A text encoder whose backbone has modules. Its passage fingerprint changes with the passages' module alone."""

    def __init__(
        self,
        tuning: Tuning,
        record: TuningRecord,
        backbone: torch.nn.Module,
        tokenizer: Tokenizer,
        config: EncoderConfig,
        folder: Path,
        **settings: Any,
    ) -> None:
        tensors = tuning.stored()
        passages = module_digest(record, tensors, routing.passage_module(record.roles))
        super().__init__(backbone, tokenizer, config, folder, passages, **settings)
        self.tuning = tuning.to(self._device).eval()
        self.record = record
        self._modules = {name: module_digest(record, tensors, name) for name in tuning.names}

    @property
    def fingerprint(self) -> str:
        """Of the passages' side, of all modules, of what says which of them reads what, and of the configuration as it is now."""
        record = self.record
        return fingerprint([self.passage_fingerprint, self._modules, record.roles, record.tasks, dict(record.lent), self.config.described])

    @property
    def tasks(self) -> set[str]:
        return {*super().tasks, *self.record.tasks, *self.record.lent} - {ANY_TASK}

    def _encode_queries(self, texts: Sequence[str], task: str | None) -> Vectors:
        with self.tuning.used(self.record.query_module(task)):
            return super()._encode_queries(texts, task)

    def encode_passages(self, passages: Sequence[Passage]) -> Vectors:
        with self.tuning.used(routing.passage_module(self.record.roles)):
            return super().encode_passages(passages)

    def borrow(self, lenders: Mapping[str, str]) -> None:
        """Also lend modules, where tasks have their own."""
        if self.record.tasks:
            self.record = self.record.lending(lenders)
            lengths = {task: self.config.max_query_tokens(lender) for task, lender in lenders.items()}
            self.config = replace(self.config, query_lengths={**self.config.query_lengths, **lengths})
        if self.config.prompts:
            super().borrow({task: lender for task, lender in lenders.items() if lender != BARE})
            bare = {task: "" for task, lender in lenders.items() if lender == BARE}
            self.config = replace(self.config, prompts={**self.config.prompts, **bare})
