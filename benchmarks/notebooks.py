"""How the notebooks are cut: lines of export cells, lessons after them, hidden cells.

python benchmarks/notebooks.py            the whole
python benchmarks/notebooks.py --each     and every notebook
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
LONG = 40  # lines of an export cell beyond which it is counted as long
GLUE = ("#| default_exp", "nbdev_export()")


@dataclass(frozen=True)
class Cell:
    "A code cell of a notebook."

    source: str

    @property
    def directives(self) -> list[str]:
        return [line for line in self.source.splitlines() if line.startswith("#|")]

    @property
    def lines(self) -> int:
        "Lines of code and comments, without blank lines and directives."
        return len([line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")])

    @property
    def kind(self) -> str:
        "glue, imports or code of the package, hidden, or lesson."
        if any(text in self.source for text in GLUE):
            return "glue"
        if any("export" in line for line in self.directives):
            return "code" if any(word in self.source for word in ("def ", "class ", "=")) else "imports"
        return "hidden" if any("hide" in line for line in self.directives) else "lesson"


def code_cells(path: Path) -> list[Cell]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [Cell("".join(cell["source"])) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def counts(cells: list[Cell]) -> dict:
    "What the issue of craft is measured by."
    exported = [cell for cell in cells if cell.kind in ("code", "imports")]
    kinds = {kind: sum(cell.kind == kind for cell in cells) for kind in ("code", "imports", "lesson", "hidden", "glue")}
    other = kinds["lesson"] + kinds["hidden"]
    return kinds | {
        "long": sum(cell.lines > LONG for cell in exported),
        "longest": max((cell.lines for cell in exported), default=0),
        "lessons per export cell": round(kinds["lesson"] / max(kinds["code"], 1), 2),
        "hidden share": round(kinds["hidden"] / max(other, 1), 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", action="store_true", help="a line for every notebook, too")
    each, everything = parser.parse_args().each, []
    for path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        cells = code_cells(path)
        everything += cells
        if each:
            print(path.relative_to(NOTEBOOKS), *(f"{name} {value}" for name, value in counts(cells).items()), sep=" · ")
    print(json.dumps(counts(everything), indent=1))


if __name__ == "__main__":
    main()
