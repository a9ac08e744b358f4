"""Generates tables and pictures in the documents, and the card of the shipped encoder (`make readme`).

In a document, the text between `<!-- COMMAND -->` and `<!-- end -->` is the output of the command.
`<!-- COMMAND > FILE -->` instead writes the output to the file that the block shows.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from taco_ir.cli import run_verb
from taco_ir.core.files import writing

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "runs" / "README.md")
BLOCK = re.compile(
    r"(?P<head><!-- (?P<command>python -m [^\n]*?)(?: > (?P<file>\S+))? -->\n)(?P<body>.*?)(?P<end><!-- end -->)",
    re.DOTALL,
)


def printed(command: str) -> str:
    """The output of a verb, run in the project's root."""
    _, _, module, *argv = shlex.split(command)
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()) as output:
        importlib.import_module(module).main(argv)
    return output.getvalue()


def generated(document: Path, text: str) -> Iterator[tuple[Path, str]]:
    """The path and content of each file that a document's `text` generates, the document itself last."""
    for block in BLOCK.finditer(text):
        if block["file"]:
            yield ROOT / block["file"], printed(block["command"])

    def written(block: re.Match[str]) -> str:
        return block[0] if block["file"] else f"{block['head']}{printed(block['command'])}{block['end']}"

    yield document, BLOCK.sub(written, text)


def main(_: object = ()) -> None:
    for document in DOCUMENTS:
        for path, text in generated(document, document.read_text(encoding="utf-8")):
            with writing(path) as file:
                file.write(text)
            print(path.relative_to(ROOT))
    print(printed("python -m taco_ir.card taco_ir/encoder_mini"), end="")


if __name__ == "__main__":
    run_verb(main)
