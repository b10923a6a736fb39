"""A hook of mkdocs: the plots of the pages are in benchmarks/results, outside the folder of pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PLOTS = "benchmarks/results/"


def on_files(files: Any, config: Any) -> Any:
    """Add the plots to the files of the site."""
    for plot in sorted(Path(config.config_file_path).parent.glob(f"{PLOTS}*/*.svg")):
        files.append(File.generated(config, f"plots/{plot.parent.name}/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link to the plots at their place in the site."""
    return markdown.replace(f"](../{PLOTS}", "](plots/")
