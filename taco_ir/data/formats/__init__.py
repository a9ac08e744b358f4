"""Formats of collections that others publish. Each file recognises and reads one format."""

FORMATS = {
    "beir": "taco_ir.data.formats.beir:BEIR",
    "msmarco": "taco_ir.data.formats.msmarco:MSMARCO",
    "hf": "taco_ir.data.formats.huggingface:HUGGING_FACE",
    "tevatron": "taco_ir.data.formats.training_files:TEVATRON",
    "dpr": "taco_ir.data.formats.training_files:DPR",
    "triples": "taco_ir.data.formats.training_files:TRIPLES",
    "irds": "taco_ir.data.formats.irds:IR_DATASETS",
}
