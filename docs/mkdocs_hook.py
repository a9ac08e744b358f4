"""What mkdocs needs beside `docs/`: pages that stand elsewhere in the project, and the reference of public names.

Links are written for the project's folder, where most read them; here they become links of the site.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import taco_ir
from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.training import settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # page of the site: where it stands
    "index.md": "README.md",
    "runs.md": "runs/README.md",
    "taco-mini.md": "taco_ir/encoder_mini/README.md",
    "sample.md": "topics/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
REFERENCE = "reference.md"
SECTIONS = {  # package: what its public names are for
    "retrieval": "Search",
    "evaluation": "Evaluate",
    "data": "Collections",
    "encoders": "Encoders",
    "training": "Train",
    "weighting": "Weightings",
    "negatives": "Hard negatives",
    "adaptation": "Teach a task to an index",
    "studies": "Studies",
    "core": "Values, files and errors",
}
KEYS = {"TrainSettings": settings.KEYS, "AdaptSettings": {entry.name: entry for entry in fields(AdaptSettings)}}
LINK = re.compile(r"(?<=\]\()(?!https?:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?(?=\))")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # a model card's, which is for hubs


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of `PAGES`, the reference, and the files that pages link to."""
    for page, place in PAGES.items():
        text = FRONT_MATTER.sub("", (ROOT / place).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, REFERENCE, content=reference()))
    for path in sorted(ROOT.glob("runs/*/*.toml")):
        files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the project into links of the site."""
    here = Path(PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent
    pages = {place: name for name, place in PAGES.items()}

    def on_site(link: re.Match[str]) -> str:
        place = os.path.normpath(here / link["path"])
        return pages.get(place, place.removeprefix("docs/")) + (link["anchor"] or "")

    return LINK.sub(on_site, markdown)


def reference() -> str:
    """A page with the documentation of every public name, by what it is for."""
    lines = ["# Reference", "", "All of these are names of `taco_ir`: `taco_ir.search`, for instance.", ""]
    for package, title in SECTIONS.items():
        lines += [f"## {title}", ""]
        for place, names in taco_ir._WHERE.items():
            for name in names if place.startswith(f"{package}.") else ():
                lines += [f"::: taco_ir.{place}.{name}", "    options:", "      heading_level: 3", ""]
                if name in KEYS:
                    lines += [*keys_table(KEYS[name]), ""]
    return "\n".join(lines)


def keys_table(settings: Mapping[str, Any]) -> Iterator[str]:
    """A table of settings: key, default, and what `--help` says of it."""
    yield "| key | default | what it is |"
    yield "| --- | --- | --- |"
    for key, entry in settings.items():
        help = " ".join(entry.metadata["help"].split()).replace("|", "\\|")
        default = "-" if entry.default is MISSING else f"`{entry.default!r}`"
        yield f"| `{key}` | {default} | {help} |"
