"""``gpulime bench``: measure, print, and save on request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gpulime.bench.measure import SECONDS, measure
from gpulime.bench.subject import of_config
from gpulime.bench.text import text
from gpulime.bench.way import KINDS
from gpulime.config import Config
from gpulime.errors import check, unknown


def run(
    config: Config,
    *,
    seconds: float | None = None,
    variants: Sequence[str] | None = None,
    images: str | None = None,
    out: str | None = None,
) -> None:
    """Measure what a configuration describes, print it, and save it in a file.

    Parameters
    ----------
    config : Config
    seconds : float, optional
        For each variant.
    variants : sequence of str, optional
        Of `way.KINDS`; all by default.
    images : str, optional
        "random", in the place of ``data.source``.
    out : str, optional
        The JSON file.

    Raises
    ------
    GpulimeError
        If a setting or an argument is invalid.
    OSError
        If the file cannot be written.
    """
    kinds = KINDS if variants is None else tuple(variants)
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("--variants", kind, KINDS)
    if out is not None:
        folder = Path(out).parent
        check(folder.is_dir() and not Path(out).is_dir(), f"--out must be a file in a folder that is there; got {out!r}")
    result = measure(of_config(config, images), SECONDS if seconds is None else seconds, kinds, _tell)
    print(text(result))
    if out is not None:
        result.write(Path(out))
        print(f"\nsaved: {out}")


def _tell(line: str) -> None:
    print(f"gpulime bench: {line}", file=sys.stderr, flush=True)
