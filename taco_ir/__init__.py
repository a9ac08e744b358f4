"""taco_ir: multi-task dense retrieval on KILT, integrated with Pyserini.

Public names are loaded on first use, so `import taco_ir` is fast; `taco_ir.load_encoder`, for instance, imports torch.
"""

from taco_ir.core import resolve

__version__ = "0.1.0"
_WHERE = {
    "adaptation.settings": ("AdaptSettings",),
    "core.files": ("InputError",),
    "core.run_formats": ("read_trec", "write_trec"),
    "core.types": ("EvidenceSet", "Passage", "Query", "Ranking", "Run"),
    "data.collection": ("Collection", "Topics", "open_collection"),
    "data.ir_datasets": ("dataset", "register_collection"),
    "encoders.config": ("EncoderConfig",),
    "encoders.text_encoder": ("TextEncoder", "load_encoder"),
    "evaluation.measures": ("Measure", "Scores"),
    "retrieval.choices": ("ModelChoice", "SearchRequest"),
    "retrieval.pyserini_bridge": ("TacoDocumentEncoder", "TacoQueryEncoder"),
    "training.settings": ("TrainSettings",),
    "weighting.base": ("StepReport", "TaskWeighting"),
    "weighting.cgd": ("CommonGradientDescent",),
    "weighting.fixed": ("Naive", "Static"),
    "weighting.gradnorm": ("GradNorm",),
    "weighting.pcgrad": ("PCGrad",),
    "weighting.taco": ("Taco",),
    "weighting.uw": ("UncertaintyWeighting",),
}
_PUBLIC = {name: f"taco_ir.{module}:{name}" for module, names in _WHERE.items() for name in names}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'taco_ir' has no attribute {name!r}")
    return resolve(_PUBLIC[name])


def __dir__() -> list[str]:
    return sorted(__all__)
