"""README.md from index.ipynb and docs/ from pages/, without Quarto: `python nbs/make_readme.py`.

Hidden cells and directives are left out, code keeps its fence, tables stay Markdown, links point at the rendered pages.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parent
ROOT = NOTEBOOKS.parent
NOTE = "<!-- Made from {name} by `make readme`; edit the notebook. -->\n\n"


def pages() -> dict[Path, Path]:
    "Each page's notebook and the file that is made from it."
    own = {path: ROOT / "docs" / f"{path.stem}.md" for path in sorted((NOTEBOOKS / "pages").glob("*.ipynb"))}
    return {NOTEBOOKS / "index.ipynb": ROOT / "README.md"} | own


def _shown(notebook: Path) -> nbformat.NotebookNode:
    "The notebook without what a page does not show."
    nb = nbformat.read(notebook, as_version=4)
    kept = []
    for cell in nb.cells:
        directives = re.findall(r"^#\|\s*(.+?)\s*$", cell.source, re.M) if cell.cell_type == "code" else []
        if "hide" in directives:
            continue
        if cell.cell_type == "code":
            cell.source = "" if "echo: false" in directives else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
        kept.append(cell)
    nb.cells = kept
    nb.metadata["language_info"] = {"name": "python"}
    return nb


def _linked(text: str, at_root: bool) -> str:
    "Links as they are from the rendered page: notebooks of pages/ become pages of docs/."
    if at_root:
        return re.sub(r"\]\(pages/(\w+)\.ipynb", r"](docs/\1.md", text).replace("](../", "](")
    return re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", text).replace("](../../docs/", "](").replace("](../../", "](../")


def render(notebook: Path = NOTEBOOKS / "index.ipynb") -> str:
    "The text of a page."
    # a table's Markdown before its HTML, which a code host shows as it likes
    order = ["text/markdown", "image/png", "text/plain"]
    exporter = MarkdownExporter(config=Config({"NbConvertBase": {"display_data_priority": order}}))
    text, _ = exporter.from_notebook_node(_shown(notebook))
    text = _linked(re.sub(r"```python\s*```\n", "", text), at_root=notebook.parent == NOTEBOOKS)
    note = NOTE.format(name=notebook.relative_to(ROOT).as_posix())
    return note + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main():
    for notebook, page in pages().items():
        page.parent.mkdir(exist_ok=True)
        page.write_text(render(notebook), encoding="utf-8")
        sys.stdout.write(f"{page.relative_to(ROOT)} written from {notebook.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
