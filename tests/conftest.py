"""Where tests find the real collection, the rule for machines that lack it, and a data home of their own."""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest_plugins = ("adaptation_runs", "browsers")

# before torch is imported: see taco_ir.core.processes.share_processors
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# before ir_datasets is imported, as collecting tests does: it reads the variable then
os.environ["IR_DATASETS_HOME"] = tempfile.mkdtemp(prefix="taco-ir-tests-")
if "PYTEST_XDIST_WORKER" in os.environ:  # a process of tests for each processor already
    os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parent
# programs that tests start import what tests share
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
SHARED = TESTS.parents[1] / "shared"


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["IR_DATASETS_HOME"])


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that tests, and processes that they start, build or fetch goes to a folder of this session."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACO_IR_HOME", str(folder / "taco_ir"))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("no_proxy", raising=False)
        yield folder / "taco_ir"


def shared_folder(name: str, what: str) -> Path:
    """A folder beside the project; a clone without it skips, CI without it fails."""
    folder = SHARED / name
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing in CI")
        pytest.skip(f"needs {what} beside the project (../shared/{name})")
    return folder


@pytest.fixture(scope="session")
def minikilt() -> Path:
    """The real multi-task collection."""
    return shared_folder("minikilt", "the mini-KILT collection")


BERT_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
BERT_TEMPLATE = ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"])


@pytest.fixture(scope="session")
def official() -> ModuleType:
    """KILT's script as Pyserini ships it, without Pyserini's code for downloads, which starts a JVM."""
    package = importlib.util.find_spec("pyserini")
    assert package is not None and package.submodule_search_locations
    path = Path(next(iter(package.submodule_search_locations))) / "eval" / "evaluate_kilt_retrieval.py"
    spec = importlib.util.spec_from_file_location("official_kilt", path)
    assert spec is not None and spec.loader is not None
    script, stub = importlib.util.module_from_spec(spec), ModuleType("pyserini.query_iterator")
    stub.KiltQueryIterator = None  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "pyserini", ModuleType("pyserini"))
        patch.setitem(sys.modules, stub.__name__, stub)
        spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="session")
def inputs() -> Path:
    """Small files in layouts of the wild."""
    return shared_folder("inputs", "the small files")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers x 32 with random weights and a vocabulary of the sample, as a plain Hugging Face folder."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    vocabulary = tiny_tokenizer(folder, BERT_TEMPLATE)
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=vocabulary, **BERT_SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_mlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_bert`, with a mask token and a head that fills in masked tokens."""
    return write_masked_bert(tmp_path_factory.mktemp("models") / "tiny-mlm")


def write_masked_bert(folder: Path) -> Path:
    """Write what `tiny_mlm` is into `folder`."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    vocabulary = tiny_tokenizer(folder, BERT_TEMPLATE, "[MASK]")
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=vocabulary, **BERT_SIZES))
    for name, param in model.named_parameters():
        if name.startswith("cls."):  # biases are 0 at first, and norms 1
            torch.nn.init.normal_(param, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_modernbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModernBERT of 3 layers x 32, two of which see four tokens around each, as a plain Hugging Face folder."""
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-modernbert"
    vocabulary = tiny_tokenizer(folder, BERT_TEMPLATE)
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    sizes = BERT_SIZES | {"num_hidden_layers": 3, "local_attention": 4}
    ModernBertModel(ModernBertConfig(vocab_size=vocabulary, **sizes, **special)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 encoder-decoder of 2 + 2 layers x 32 with random weights, as a plain Hugging Face folder."""
    import torch
    from transformers import T5Config, T5Model

    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    vocabulary = tiny_tokenizer(folder, ("$A </s>", ["</s>"]))
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    T5Model(T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **sizes)).save_pretrained(folder)
    return folder


def tiny_tokenizer(folder: Path, template: tuple[str, list[str]], *more: str) -> int:
    """Write a WordPiece tokenizer of `vocabulary.txt`, with `more` special tokens; the size of its vocabulary.

    The file is what tokenizers' trainer once made of the sample collection: the trainer breaks ties by chance.
    """
    import json

    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>", "<extra_id_1>", *more]
    trained = (TESTS / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {token: number for number, token in enumerate([*special, *trained])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces, ends = template
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pieces, special_tokens=[(end, tokenizer.token_to_id(end)) for end in ends]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 128}))
    return tokenizer.get_vocab_size()
