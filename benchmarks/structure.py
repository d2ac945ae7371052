"""The package's structure: modules, import circles, and how much code serves and how much trains.

    python benchmarks/structure.py                    # this checkout
    python benchmarks/structure.py BEFORE AFTER       # two checkouts side by side

Reads the sources alone (`ast`); nothing of the package is imported, so any checkout can be measured, of any layout. An import
counts wherever it stands, inside functions too, unless "at the top" is said. Writes benchmarks/results/structure.json.
"""

import argparse
import ast
import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGE = "lending_club"
GENERATED = "_modidx"  # nbdev's index of names


def package_modules(root: Path) -> dict[str, Path]:
    "Dotted name below the package to file, of every module that holds code."
    folder = root / PACKAGE
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if parts and parts[-1] != GENERATED and ast.parse(path.read_text()).body:
            found[".".join(parts)] = path
    return found


def _imports(nodes, package: list[str]) -> set[str]:
    "Full dotted names of what these import statements may import; relative ones start at `package`."
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def imported_names(path: Path, root: Path, lazy: bool = True) -> set[str]:
    "Full dotted names that a file of the checkout imports; without `lazy` only those that run when it is imported."
    tree = ast.parse(path.read_text())
    nodes, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        if lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))
    return _imports(nodes, list(path.relative_to(root).parent.parts))


def import_graph(root: Path, lazy: bool = True) -> dict[str, set[str]]:
    "Module to the package's modules that it imports itself."
    modules = package_modules(root)
    graph = {}
    for name, path in modules.items():
        inside = {n.removeprefix(f"{PACKAGE}.") for n in imported_names(path, root, lazy) if n.startswith(f"{PACKAGE}.")}
        graph[name] = (inside & modules.keys()) - {name}
    return graph


def closure(graph: dict[str, set[str]], *roots: str) -> set[str]:
    "The roots, what they import, what that imports, and so on."
    found, waiting = set(), list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    "Groups of modules that import each other, directly or through others."
    behind = {name: closure(graph, *graph[name]) for name in graph}
    groups = {tuple(sorted(other for other in behind[name] if name in behind[other])) for name in graph if name in behind[name]}
    return sorted(map(list, groups))


def service_entry(root: Path) -> str:
    "The module that service/app.py, which ASGI servers import, takes the service from."
    modules = package_modules(root)
    names = {name.removeprefix(f"{PACKAGE}.") for name in imported_names(root / "service" / "app.py", root)}
    (entry,) = names & modules.keys()
    return entry


def line_count(path: Path) -> int:
    "Physical lines."
    return len(path.read_text().splitlines())


def export_cells(root: Path) -> list[int]:
    "Lines of each exported cell of the notebooks, cells of imports left out."
    lengths = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for cell in json.loads(path.read_text())["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and re.match(r"#\|\s*export\b", source):
                tree = ast.parse(source)
                if not all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body):
                    lengths.append(len(source.splitlines()) - 1)
    return lengths


def _matches(modules: dict[str, Path], pattern: str) -> int:
    "How often a pattern occurs in the package's code."
    return sum(len(re.findall(pattern, path.read_text())) for path in modules.values())


def measure(root: Path) -> dict:
    "The measures of one checkout."
    modules = package_modules(root)
    lines = {name: line_count(path) for name, path in modules.items()}
    everything, at_top = import_graph(root), import_graph(root, lazy=False)
    serves, trains = closure(everything, service_entry(root)), closure(everything, "train")
    cells = export_cells(root)
    longest = max(lines, key=lines.get)
    return {
        "modules": len(modules),
        "lines": sum(lines.values()),
        "longest module": longest,
        "longest module, lines": lines[longest],
        "modules above 420 lines": sum(count > 420 for count in lines.values()),
        "import circles": [" ↔ ".join(group) for group in circles(everything)],
        "serves: entry": service_entry(root),
        "serves: modules": len(serves),
        "serves: lines": sum(lines[name] for name in serves),
        "serves: lines imported at the top": sum(lines[name] for name in closure(at_top, service_entry(root))),
        "trains: modules": len(trains),
        "trains: lines": sum(lines[name] for name in trains),
        "exported cells": len(cells),
        "exported cells, median lines": statistics.median(cells),
        "exported cells, longest": max(cells),
        "exported cells above 40 lines": sum(length > 40 for length in cells),
        "places that fold white space": _matches(modules, r"""["'] ["']\.join\([^()]*(?:\(\w*\))?\.split\(\)\)"""),
        "places that spell the months": _matches(modules, r"Jan\W+Feb\W+Mar"),
        "places that name a file .part": _matches(modules, r"""suffix="\.part\""""),
        "places with the annuity's formula": _matches(modules, r"-np\.expm1\(-"),
        "places with the normal quantile 1.96": _matches(modules, r"1\.959963985|1\.959964|1\.96\b"),
    }


def table(measures: dict[str, dict]) -> str:
    "Measures by checkout, side by side."
    names = list(next(iter(measures.values())))

    def shown(value) -> str:
        return ("; ".join(value) or "none") if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)

    rows = [["", *measures], *([name, *(shown(own[name]) for own in measures.values())] for name in names)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="*", default=[ROOT], help="one folder, or two: before and after")
    folders = parser.parse_args().checkouts
    if len(folders) > 2:
        parser.error(f"{len(folders)} folders: give one, or two, before and after")
    names = ["before", "after"] if len(folders) == 2 else ["now"]
    measures = {name: measure(folder.resolve()) for name, folder in zip(names, folders, strict=True)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "structure.json").write_text(json.dumps(measures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(table(measures))


if __name__ == "__main__":
    main()
