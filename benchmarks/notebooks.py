"""How the notebooks are cut: lines of export cells, lessons after them, hidden cells.

python benchmarks/notebooks.py            the whole
python benchmarks/notebooks.py --each     and every notebook
"""

import argparse
import ast
import json
from dataclasses import dataclass
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
LONG = 40  # lines of an export cell beyond which it is counted as long


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
    def statements(self) -> list[ast.stmt]:
        "What the cell does, without Jupyter's own commands."
        return ast.parse("\n".join(line for line in self.source.splitlines() if not line.startswith(("%", "!")))).body

    @property
    def kind(self) -> str:
        "glue of nbdev, imports, code of the package, hidden, or lesson."
        statements = self.statements
        if not statements or "nbdev_export()" in self.source:
            return "glue"
        if all(isinstance(statement, (ast.Import, ast.ImportFrom)) for statement in statements):
            return "imports"
        if any(line.startswith("#| export") for line in self.directives):
            return "code"
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
