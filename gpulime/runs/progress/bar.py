"""Terminal output of a run: a bar, a few lines for each of the first images, a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from gpulime.explanations import shades
from gpulime.runs.progress import terminal
from gpulime.runs.progress.heartbeat import Effort
from gpulime.runs.progress.terminal import printable
from gpulime.runs.store.row import PARTS, UNSEEN, kind_of

SHOWN_IMAGES = 20
SHOWN_SEGMENTS = 3


class Progress:
    """Counts forwards and images; prints explanations as they come.

    The work is ``images`` times ``n_samples`` forwards at first, and is corrected by the samples that finished images took;
    times ``per_sample``, which is below 1 if inputs share samples. ``one`` is the kind of inputs.
    ``model_seconds`` returns the time in the model so far. ``ok`` and ``failed`` count images since the start.
    """

    def __init__(
        self,
        images: int,
        n_samples: int,
        class_names: Sequence[str] | None,
        model_seconds: Callable[[], float] = lambda: 0.0,
        shown: bool = True,
        one: str = "image",
        per_sample: float = 1.0,
    ) -> None:
        self.waiting, self.n_samples, self.one, self.per_sample = images, n_samples * per_sample, one, per_sample
        self.class_names, self.model_seconds = class_names, model_seconds
        self.ok, self.failed, self.printed = 0, 0, 0 if shown else SHOWN_IMAGES + 1
        self.cut = 0  # texts with words that the model never sees
        self.samples, self.counted = 0.0, 0  # samples of finished images, and their number
        self.seen, self.total, self.started = 0, round(images * n_samples * per_sample), time.perf_counter()
        self.bar = tqdm(disable=True)
        self._is_bar = images > 0 and shown

    def __enter__(self) -> Progress:
        self.started = time.perf_counter()
        self.bar = tqdm(
            total=self.total,
            unit=" forwards",
            disable=not self._is_bar,
            file=sys.stderr if terminal.is_there() else terminal.Lines(),
            leave=False,
            delay=1e-9,  # nothing is printed before the first state
            mininterval=0.1 if terminal.is_there() else 10,
            bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} forwards, {rate_fmt}{postfix}, {remaining} left",
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        if self.cut:
            texts = f"{self.cut:,} {self.one}{'s have' if self.cut > 1 else ' has'} words"
            terminal.note(f"{texts} that the model never sees, such as those beyond its longest input: the column {UNSEEN}")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    @property
    def effort(self) -> Effort:
        """Time, forwards and time in the model since the start."""
        return Effort(self.seconds, self.seen, self.model_seconds())

    @property
    def left(self) -> float | None:
        """Seconds left at the rate since the start; None before the first forward, and if images take longer than expected."""
        if not self.seen or (self.waiting and self.total == self.seen):
            return None
        return (self.total - self.seen) / self.seen * self.seconds

    def forwards(self, b: int) -> None:
        """Count b more rows of the model."""
        self.seen += b
        self._estimate()
        rate = self.seen / self.n_samples / self.seconds
        self.bar.set_postfix_str(f"{rate:.2f} {self.one}s/s, {100 * self.effort.in_model:.0f} % in the model", refresh=False)
        self.bar.update(b)

    def image(self, row: Mapping[str, Any]) -> None:
        """Count a written row."""
        self.waiting -= 1
        if row["status"] == "ok" or row["error_type"] == "non_finite":  # the forwards of others are cancelled
            self.samples, self.counted = self.samples + row["n_samples"] * self.per_sample, self.counted + 1
            self.n_samples = self.samples / self.counted
        self._estimate()
        self.failed += row["status"] == "error"
        self.ok += row["status"] == "ok"
        self.cut += bool(row.get(UNSEEN))
        if self.printed < SHOWN_IMAGES:
            self._print("\n".join(lines(row, self.class_names)))
        elif self.printed == SHOWN_IMAGES:
            self._print(f"... and so on; every {self.one} is in the results")
        self.printed += 1

    def _estimate(self) -> None:
        """Expect that images take as many samples as the finished ones did, on average; never less than was seen."""
        expected = round(self.samples + self.waiting * self.n_samples) if self.waiting else 0
        # More is seen if images of a batch that failed are explained again, one by one.
        self.total = self.bar.total = max(expected, self.seen)

    def _print(self, text: str) -> None:
        with tqdm.external_write_mode():  # above the bar
            terminal.say(text)


def lines(row: Mapping[str, Any], class_names: Sequence[str] | None) -> list[str]:
    """A row of the store in words: its labels with output and leave-one-out R2, and each label's strongest parts."""
    name = printable(str(row["image_id"]))
    if row["status"] == "error":
        return [printable(f"{name}: {row['error_type']}: {row['error']}")]
    part, names = PARTS[kind_of(row)].removesuffix("s"), row.get("parts")
    unseen = {*(row.get(UNSEEN) or [])}
    never = f", {len(unseen)} of them never seen by the model" if unseen else ""
    found = [f"{name} ({row['n_segments']} {part}{'' if row['n_segments'] == 1 else 's'}{never})"]
    for label, prob, r2, coef in zip(row["labels"], row["pred_probs"], row["r2_loo"], row["coef"], strict=True):
        called = class_names[label] if class_names is not None and label < len(class_names) else f"class {label}"
        strongest = shades.strongest([(j, w) for j, w in enumerate(coef) if j not in unseen], SHOWN_SEGMENTS)
        shown = [(f"#{j}" if names is None else printable(names[j]), w) for j, w in strongest]
        parts = "  ".join(f"{name} {w:+.{shades.decimals(abs(strongest[0][1]))}f}" for name, w in shown) or "none"
        score = "   -" if r2 is None else f"{r2:.2f}"
        found.append(f"  {printable(called):28.28} {prob:6.3f}   R2 left out {score}   strongest {part}s {parts}")
    return found
