"""Units that several ranks do, and waiting for one: `python units_by_ranks.py FOLDER WRONG` by torchrun."""

from __future__ import annotations

import json
import time
from pathlib import Path

from counting import units

from taco_ir.cli import run_verb
from taco_ir.scale import ranks as module
from taco_ir.scale.engines import do_units
from taco_ir.scale.ranks import Ranks

LATE = 2  # the rank that comes late


def main(words: list[str]) -> None:
    folder, wrong = Path(words[0]), json.loads(words[1])
    ranks = Ranks("cpu")
    for name in ("one", "two"):
        with ranks.lead() as leads:
            if leads:
                (folder / name).mkdir(exist_ok=True)
                for _ in range(2):  # the second time, nothing is left
                    do_units(units(folder / name, wrong=wrong), ranks, "count", "rows")
                (folder / "led").write_text(name)
        assert (folder / "led").read_text() in (name, "two"), "nobody goes on before the first has left"
    module.SLOW = 0.2
    if ranks.rank == LATE:
        time.sleep(1.5)
    ranks.wait()
    print("value", ranks.from_first(1 / (3 + ranks.rank)))
    ranks.wait()


if __name__ == "__main__":
    run_verb(main)  # type: ignore[arg-type]
