"""README.md from index.ipynb, without Quarto: `python nbs/make_readme.py`.

Hidden cells and directives are left out, code keeps its fence, tables stay Markdown, paths begin at the repository's root.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

NOTEBOOK = Path(__file__).with_name("index.ipynb")
README = NOTEBOOK.parent.parent / "README.md"
NOTE = "<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook. -->\n\n"


def render(notebook: Path = NOTEBOOK) -> str:
    "The README's text."
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
    # a table's Markdown before its HTML, which a code host shows as it likes
    order = ["text/markdown", "image/png", "text/plain"]
    exporter = MarkdownExporter(config=Config({"NbConvertBase": {"display_data_priority": order}}))
    text, _ = exporter.from_notebook_node(nb)
    text = re.sub(r"```python\s*```\n", "", text).replace("](../", "](")
    return NOTE + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    README.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{README.name} written from {NOTEBOOK.name}\n")
