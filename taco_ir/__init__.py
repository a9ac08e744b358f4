"""taco_ir: multi-task dense retrieval on KILT, integrated with Pyserini."""

__version__ = "0.1.0"
