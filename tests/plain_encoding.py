"""Vectors as transformers gives them, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

from taco_ir.core.types import Vectors


def plainly(folder: Path, texts: Sequence[str], pooling: str, normalize: bool = False, length: int = 128) -> Vectors:
    """One text at a time, without padding, by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    vectors = []
    for text in texts:
        inputs = {"input_ids": tokenizer(text, truncation=True, max_length=length, return_tensors="pt")["input_ids"]}
        with torch.no_grad():
            if pooling == "decoder":
                vector_D = model(
                    **inputs, decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id]])
                ).last_hidden_state[0, 0]
            else:
                states_LD = (model.encoder if model.config.model_type == "t5" else model)(**inputs).last_hidden_state[0]
                vector_D = states_LD.mean(0) if pooling == "mean" else states_LD[0]
        vectors.append((vector_D / vector_D.norm() if normalize else vector_D).numpy())
    return np.stack(vectors)
