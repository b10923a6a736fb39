"""Runs made of rows, for tests that read a run without explaining."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from gpulime.config import Config
from gpulime.runs.progress.heartbeat import Beat, Effort, machine
from gpulime.runs.store import shards, store
from gpulime.runs.store.layout import VERSION_KEY
from gpulime.runs.store.row import ADDED

HOSTILE = ["</script><b>x", "../../x", "two\nlines", "\u202egpj.exe", "{{ 7 * 7 }}", "=1+1", "/etc/x"]
HOSTILE += ["\"'><img src=http://a.b onerror=x>", "download_all"]
LABELS = np.arange(4).reshape(2, 2).repeat(12, 0).repeat(10, 1)  # quarters of (24, 20)


def row(image_id, **changes):
    common = {"image_id": image_id, "path": b"", "attempt": 1, "n_samples": 50, "seed": 0, "config_hash": "0f" * 8}
    return common | {"written_at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)} | changes


def explained(image_id, coef=((0.5, -0.25, 0.125, 0.0), (0.1, 0.2, 0.3, 0.4)), segments=LABELS, **changes):
    seg, seg_dtype = store.encode_segments(segments)
    h, w = segments.shape
    sizes = {"h": h, "w": w, "n_segments": int(segments.max()) + 1, "seg": seg, "seg_dtype": seg_dtype, "segmenter": "grid"}
    facts = {"labels": [1, 2], "pred_probs": [0.75, 0.125], "r2": [0.5, None], "intercept": [0.1, 0.2]}
    return row(image_id, status="ok", coef=[list(one) for one in coef], **(sizes | facts | changes))


def failed(image_id, **changes):
    return row(image_id, status="error", error_type="decode", error="is empty", **changes)


def run(folder, *rows, names=("tench", "tabby", "lynx"), fixed=None, files=True):
    """A run directory; with ``files`` its run.json tells the source of pictures, like a run of the command."""
    from dataclasses import asdict

    with store.Store(folder) as results:
        for one in rows:
            results.append(one)
    transform = {"resize": None, "crop": None, "interpolation": "bilinear", "mean": None, "std": None}
    origin = {"config": asdict(Config()), "transform": transform} if files else {}
    store.write_manifest(folder, {**origin, "class_names": names, "fixed": fixed or {}})
    return folder


def as_version(folder, version):
    """Rewrite a run in an earlier version of the schema, without the later columns."""
    later = [name for name, since in ADDED.items() if since > version]
    for shard in store.shards(folder):
        table = pq.read_table(shard).drop_columns(later).replace_schema_metadata({VERSION_KEY: str(version).encode()})
        shard.unlink()
        pq.write_table(table, shard, write_page_checksum=True)
        rank, milliseconds = shards.number(shard)
        shard.rename(shard.with_name(shards.name_of(rank, milliseconds, shards.checksum(shard))))
    about = json.loads((folder / store.MANIFEST).read_text())
    (folder / store.MANIFEST).write_text(json.dumps(about | {"schema_version": version}))
    return folder


def picture(folder, name="cat.png", size=LABELS.shape):
    """A file with a picture, and its path as a row has it."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return str(folder / name).encode(), pixels


def at(path):
    """The columns of a row about its file."""
    return {"path": path, "image_sha256": hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()}


def beat_of(share, **changes):
    """A heartbeat of this process, as if it were in the middle of a run."""
    facts = {
        "host": machine(),
        "pid": os.getpid(),
        "state": "running",
        "config_hash": None,
        "images": 10,
        "own": 10,
        "before": 2,
    }
    facts |= {"ok": 3, "failed": 1, "effort": Effort(20.0, 4000, 19.4), "left": 20.0, "time": 0.0}
    return Beat(share=share, **(facts | changes))


def photographs(root):
    """Write six noisy pictures into two folders, and three files that are no whole images."""
    rng = np.random.default_rng(0)
    for i in range(6):
        folder = root / ("ant" if i < 3 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (root / "ant" / "page.jpg").write_text("<html>not found</html>")
    (root / "bee" / "empty.jpg").touch()
    whole = (root / "bee" / "3.png").read_bytes()
    (root / "bee" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("not an image")
    return root
