"""Training objectives: each kind of task is one file and a line here."""

OBJECTIVES = {
    "retrieval": "taco_ir.training.objectives.contrastive:Contrastive",
    "reading": "taco_ir.training.objectives.reading:Reading",
    "mlm": "taco_ir.training.objectives.masked_tokens:MaskedTokens",
    "inverse_cloze": "taco_ir.training.objectives.inverse_cloze:InverseCloze",
    "documents": "taco_ir.training.objectives.spans:Spans",
}
