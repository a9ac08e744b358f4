"""Every command in the documents is understood, and the commands of the guide work one after the other."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from documents import BLOCK, ROOT, blocks, command, lines_of, module, runnable
from torch.nn import Parameter
from verbs import without_java

from taco_ir.cli import Parser
from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.types import Passage
from taco_ir.data import collection
from taco_ir.encoders.config import CONFIG_FILE
from taco_ir.encoders.text_encoder import load_encoder
from taco_ir.encoders.weights import INT8_FILE
from taco_ir.evaluation import significance
from taco_ir.retrieval.vectors import Shard, VectorSet
from taco_ir.studies.conditions import read_study
from taco_ir.train import parser as train_parser
from taco_ir.training.flags import given_flags, read_settings
from taco_ir.weighting.base import TaskWeighting

DOCS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "topics/*.md", "runs/*.md", "runs/*/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
# a verb alone is its name, no command
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:python|torchrun) [^`]*taco_ir\.\w+ [^`]*)`")
PAGES = (  # all of whose blocks are run, or say what they need
    *("README.md", "CONTRIBUTING.md", "taco_ir/encoder_mini/README.md", "topics/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)
# pages whose blocks are run
RUN = {
    *("README.md", "CONTRIBUTING.md", "taco_ir/encoder_mini/README.md"),
    *(f"docs/{name}.md" for name in "guide new-task collections adapt weightings python serving".split()),
}
LAYERS, LENGTHS = {"num_hidden_layers": 1}, {"query_length": 32, "passage_length": 64}  # of a small backbone
DATA = ("text", "jsonl", "toml")  # fences of blocks that are no code


def command_lines(text: str) -> list[str]:
    """Every command of ours in code blocks and in running text, continued lines joined."""
    lines = [line for _, block in blocks(text) for line in lines_of(block)]
    return [
        line
        for line in [*lines, *INLINE.findall(BLOCK.sub("", text))]
        if re.match(r"\s*([A-Z_]+=\S+ )*(python|torchrun)\b.*-m taco_ir", line)
    ]


class Parsed(Exception):
    """The arguments were understood; nothing is to be done with them."""

    def __init__(self, options: Namespace) -> None:
        self.options = options


COMMANDS = [
    (path.relative_to(ROOT).as_posix(), line.strip())
    for path in DOCS
    for line in command_lines(path.read_text(encoding="utf-8"))
]


def test_there_are_commands_to_check() -> None:
    verbs = {command(line)[0] for _, line in COMMANDS}
    assert (
        verbs >= {"search", "evaluate", "encode", "index", "train", "mine", "export", "data", "submission"}
        and len(COMMANDS) > 40
    )


@pytest.mark.parametrize(
    ("document", "line"), COMMANDS, ids=[f"{document}: {line[:60]}" for document, line in COMMANDS]
)
def test_a_command_is_understood(document: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, argv = command(line)
    parse = Parser.parse_args

    def parse_only(parser: Parser, *args: object) -> Namespace:
        options: Namespace = parse(parser, *args)  # type: ignore[arg-type]
        if parser.prog == "python -m taco_ir.data":  # picks the command, which has a parser of its own
            return options
        raise Parsed(options)

    monkeypatch.setattr(Parser, "parse_args", parse_only)
    try:
        importlib.import_module(module(verb)).main(argv)
    except Parsed as parsed:
        if verb == "encode":
            Shard.parse(parsed.options.shard)
        if verb == "train":
            check_training(parsed.options)
        if verb == "adapt":
            check_adaptation(parsed.options)
        if verb == "pretrain":
            check_pretraining(parsed.options)
        if verb == "reproduce":
            check_study(parsed.options)
    except InputError as error:
        pytest.fail(f"{document}: {line}: {error}")
    except SystemExit as end:  # --help
        assert end.code == 0


def check_training(options: Namespace) -> None:
    """Keys have the right types and ranges, and the configuration exists."""
    from taco_ir.training.flags import given_flags, read_settings

    config = read_settings(options.config, given_flags(options), options.preset)
    assert config.run.model and config.run.output


def check_adaptation(options: Namespace) -> None:
    from taco_ir.adaptation.settings import AdaptSettings, read_settings
    from taco_ir.core.settings import given_values, rules_of

    assert read_settings(options.config, given_values(options, rules_of(AdaptSettings))).output


def check_pretraining(options: Namespace) -> None:
    from taco_ir.training.flags import PRETRAIN, given_flags, read_settings

    assert read_settings(options.config, given_flags(options, PRETRAIN.keys), verb=PRETRAIN).run.output


def check_study(options: Namespace) -> None:
    """Every model that a study of ours needs is named."""
    from taco_ir.studies.conditions import parse_models, read_study

    if (ROOT / options.conditions).is_file() and not options.list:
        assert set(read_study(ROOT / options.conditions).models) == parse_models(options.models).keys()


def prints_a_board(line: str) -> bool:
    """Whether its study has records in the project; those of public sets are to be made."""
    return command(line)[0] == "leaderboard" and not re.search("--check|--collection|--output|runs/public", line)


@pytest.mark.parametrize(
    "line", dict.fromkeys(line.partition("#")[0].strip() for _, line in COMMANDS if prints_a_board(line))
)
def test_a_leaderboard_prints(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With fewer flips than the documents' tables, which test_generated makes."""
    few = partial(significance.randomisation_tests, samples=999)
    monkeypatch.setattr(significance, "randomisation_tests", few)
    monkeypatch.chdir(ROOT)
    verb, argv = command(line)
    importlib.import_module(module(verb)).main(argv)
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_targets_of_make_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    prose = BLOCK.sub("", text)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = re.findall(r"`make ([a-z-]+)", prose) + [
        name for _, block in blocks(text) for name in re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
    ]
    assert set(named) <= set(targets)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, (
                f"{path.name} links to {link}"
            )


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_what_it_needs(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for fence, block in blocks(text):
        assert fence in ("sh", "python", *DATA), f"{page}: a block of {fence or 'nothing'!r}"
        assert fence not in DATA or not command_lines(f"```{fence}\n{block}```"), (
            f"{page}: commands in a block of {fence}"
        )
    assert page in RUN or not runnable(text), f"{page}: blocks that no test runs"


@pytest.mark.parametrize("section", ["third party", "first party"])
@pytest.mark.parametrize("page", PAGES)
def test_the_order_of_imports_is_what_ruff_makes_of_it(page: str, section: str, tmp_path: Path) -> None:
    """Elsewhere, where our package is one of others, and in a project that it belongs to."""
    known = ["--config", "lint.isort.known-first-party=['taco_ir']"] * (section == "first party")
    for fence, block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if fence == "python":
            (tmp_path / "block.py").write_text(block, encoding="utf-8")
            flags = ["check", "--isolated", "--no-cache", "--select", "I001", *known, str(tmp_path / "block.py")]
            done = subprocess.run([sys.executable, "-m", "ruff", *flags], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{page}: {done.stdout}"


def run_in_a_process(page: str, folder: Path, *stand_ins: str) -> str:
    """Its blocks as they stand, in order, in one folder, on a machine without Java and keys; what they print."""
    driver = [sys.executable, str(ROOT / "tests" / "documents.py"), str(ROOT / page), *stand_ins]
    done = warm.run(driver, folder, without_java(folder.parent / "bin"))
    assert done.returncode == 0, f"{page}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """The package's backbone with one of its layers, and for short texts: a tenth of the work."""
    from safetensors.torch import load_file, save_file

    from taco_ir.encoders.names import SHIPPED_BACKBONE, locate

    folder = Path(shutil.copytree(locate(SHIPPED_BACKBONE), tmp_path / "backbone"))
    for name, changes in {"config.json": LAYERS, CONFIG_FILE: LENGTHS}.items():
        write_json(folder / name, read_json(folder / name) | changes)
    weights = load_file(folder / INT8_FILE)
    kept = {name: value for name, value in weights.items() if "layer." not in name or "layer.0." in name}
    save_file(kept, folder / INT8_FILE, {"format": "pt"})
    return folder


@pytest.mark.timeout(1800)
def test_the_guide_works_from_top_to_bottom(folder: Path, backbone: Path) -> None:
    assert len(runnable((ROOT / "docs" / "guide.md").read_text(encoding="utf-8"))) >= 10
    printed = run_in_a_process("docs/guide.md", folder, str(backbone))
    made = "my-wiki/part.json negatives.audit.html without-answers.jsonl my-run/model my-base/model my-adapters/model"
    made += " mixed.trec runs/taco/nq-dev.trec answers/nq-dev.jsonl my-all/model submission.zip"
    for name in made.split():
        assert (folder / name).exists(), name
    assert "my-wiki: 123 passages, 103 gold and 20 distractors" in printed
    assert "against bm25: paired randomisation test" in printed


@pytest.mark.parametrize(
    "path", [*DOCS, *(ROOT / "taco_ir").rglob("*.py")], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_nothing_is_to_be_installed_from_an_index_that_lacks_it(path: Path) -> None:
    """The package is on no index: it is installed from its clone."""
    assert not re.search(r"pip install\s+(-\S+\s+)*['\"]?taco[_-]ir", path.read_text(encoding="utf-8"))


@pytest.mark.timeout(1800)
def test_the_readme_works_from_top_to_bottom(folder: Path, tiny_bert: Path) -> None:
    """With a collection and models of one's own: small ones under the names that it gives them."""
    from taco_ir.data.__main__ import main as data
    from taco_ir.encoders.config import EncoderConfig

    flags = ["--topics", "nq-train", "nq-dev", "fever-dev", "--distractors", "5"]
    data(["subset", *flags, "--output", str(folder / "my-wiki")])
    for name, prompts in {"my-model": {}, "my-checkpoint": {"nq": "question: ", "fever": "claim: "}}.items():
        shutil.copytree(tiny_bert, folder / name)
        EncoderConfig("mean", True, prompts, query_length=64, passage_length=64).save(folder / name)
    run_in_a_process("README.md", folder)
    for made in (
        "runs/mine/wow-dev.trec",
        "runs/sample/nq-dev.bm25.trec",
        "nq-dev.trec",
        "exported/huggingface/pyserini-flags.txt",
    ):
        assert (folder / made).exists(), made


def test_a_task_is_taught_to_an_index(folder: Path, backbone: Path) -> None:
    printed = run_in_a_process("docs/adapt.md", folder, str(backbone))
    assert printed.count("the same before and after") == 2
    for made in ("taught/model/tuning.json", "faq/report.md", "runs/taught/trex-dev.trec"):
        assert (folder / made).exists(), made


def test_the_same_is_done_in_python(folder: Path, backbone: Path) -> None:
    printed = run_in_a_process("docs/python.md", folder, str(backbone))
    assert "gold kept" in printed
    for made in ("negatives.audit.html", "my-run/model/config.json"):
        assert (folder / made).exists(), made


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/collections.md", "docs/weightings.md", "taco_ir/encoder_mini/README.md"]
)
def test_a_page_works_from_top_to_bottom(page: str, folder: Path) -> None:
    run_in_a_process(page, folder)


def test_other_stores_find_the_same(folder: Path) -> None:
    """Lucene always, LanceDB and Qdrant where they are installed."""
    printed = run_in_a_process("docs/serving.md", folder)
    blocks_of: dict[str, list[str]] = {}
    for fence, block in blocks((ROOT / "docs" / "serving.md").read_text(encoding="utf-8")):
        first, _, rest = block.partition("\n")
        if (package := re.match(r"# needs ([\w-]+)", first)) and find_spec(package[1].replace("-", "_")):
            blocks_of.setdefault(package[1], []).append(f"```{fence}\n{rest}```\n")
    for name, own in blocks_of.items():
        (folder.parent / f"{name}.md").write_text("".join(own), encoding="utf-8")
        printed += run_in_a_process(str(folder.parent / f"{name}.md"), folder)
    ((vectors_ND, docids),) = VectorSet(folder / "vectors" / "sample").blocks()
    scores_N = vectors_ND @ load_encoder("taco-mini").encode_queries(["who painted the mona lisa"], "nq")[0]
    best = np.argsort(-scores_N)[:3].tolist()
    found = re.findall(r"^(0\.\d{3}) (\S+#\d+)", printed, re.MULTILINE)
    assert [docid for _, docid in found] == [docids[row] for row in best] * (1 + len(blocks_of))
    expected = [float(scores_N[row]) for row in best] * (1 + len(blocks_of))
    assert [float(score) for score, _ in found] == pytest.approx(expected, abs=0.002)


def example(name: str) -> Any:
    """What an example in CONTRIBUTING defines under a name."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = [block for fence, block in blocks(text) if fence == "python" and name in block]
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)
    return names[name]


def test_the_weighting_in_the_example_weighs_by_the_losses_of_the_step_before() -> None:
    param = Parameter(torch.zeros(2))
    weighting: TaskWeighting = example("LossProportional")([param], 2)
    for expected in ([0.5, 0.5], [0.25, 0.75]):
        weighting.begin(0.0)
        for task, (loss, grad) in enumerate(((1.0, [1.0, 0.0]), (3.0, [0.0, 1.0]))):
            param.grad = torch.tensor(grad)
            weighting.add(task, torch.tensor(loss), [param])
        report = weighting.combine([param])
        assert param.grad is not None and param.grad.tolist() == expected == list(report.weights)


def test_the_study_of_static_weights_chooses_among_eight_sets() -> None:
    study = read_study(ROOT / "runs" / "public" / "static" / "conditions.toml")
    assert study.candidates("static") == {"draw": {str(draw): f"static-{draw}" for draw in range(1, 9)}}
    chosen = (
        study.conditions["static"]
        .commands[0]
        .format(collection="sample", base="taco-mini-backbone", negatives="n", seed=0, out="out", draw=3)
    )
    settings = read_settings(None, given_flags(train_parser().parse_args(shlex.split(chosen)[1:])))
    assert settings.weighting.weighting_options == {"draw": 3}


def test_the_format_in_the_example_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, resolve = example("CSV"), collection.resolve
    monkeypatch.setitem(collection.FORMATS, "csv", "example:CSV")
    monkeypatch.setattr(collection, "resolve", lambda place: made if place == "example:CSV" else resolve(place))
    (tmp_path / "docs.csv").write_text('docno,body\n1,"who, what"\n2,where\n')
    opened = collection.open_collection(str(tmp_path / "docs.csv"))
    assert opened.layout == "CSV file"
    assert list(opened.passages.read()) == [Passage("1", "1", "", "who, what"), Passage("2", "2", "", "where")]


def test_the_files_and_packages_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = (ROOT, ROOT / "taco_ir", ROOT / "taco_ir" / "training" / "objectives")
    named = re.findall(r"`([\w/]+(?:\.py|/))`", text)
    assert len(named) > 40 and [name for name in named if not any((each / name).exists() for each in folders)] == []
    packages = {
        path.parent.relative_to(ROOT / "taco_ir").as_posix() for path in (ROOT / "taco_ir").rglob("__init__.py")
    }
    assert packages - {name.rstrip("/") for name in named} <= {"."}


@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(notebook: Path, folder: Path, backbone: Path) -> None:
    """Their cells in order in one process, with a backbone of one layer in the place of the package's."""
    cells = read_json(notebook, dict[str, Any])["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    script = folder / "notebook.py"
    script.write_text(code.replace("taco-mini-backbone", str(backbone)), encoding="utf-8")
    done = warm.run([sys.executable, str(script)], folder, without_java(folder.parent / "bin"))
    assert done.returncode == 0, f"{notebook.name}: {done.stdout[-2000:]}\n{done.stderr[-6000:]}"
