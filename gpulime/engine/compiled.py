"""The model as torch.compile makes it, for batches of few sizes; one that it cannot make is called as it is.

Only the model is compiled, and not the op that writes its rows (`gpulime.ops.masked_images`). At the border of two flights a
batch is several calls of it, and the number of segments, with it the shape of the masks, changes from flight to flight: each
would be another graph, or one of open sizes, which CUDA graphs do not take. The op's kernel is one launch, and in
the best case, with all sizes fixed, one graph of both takes longer on a CPU (``benchmarks.run --only op_compiled_bfloat16``).
"""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.device import out_of_memory
from gpulime.engine import freezing
from gpulime.engine.outputs import read
from gpulime.errors import unknown

MODES = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # torch.compile's own words
SECONDS, TIMES = 40.0, 10  # "auto" takes compiling for so long, and wants so many times that of forwards to be left
MOST_REASON = 300  # characters: a compiler may give its whole command line

# Where PyTorch compiles a model for no more shapes it calls it as it is, and says so in its log alone.
_LOG, _LIMIT = "torch._dynamo.convert_frame", re.compile(r"torch\._dynamo hit (config\.\w+) \((\d+)\)")


class Compiled:
    """A compiled model.

    Every number of rows is compiled for itself, which takes seconds to minutes: so rows that a batch lacks are filled up. On a
    CPU the weights of a module in eval mode are constants of what is compiled (`gpulime.engine.freezing`). After their first
    change it is compiled once more, with its weights as arguments: later changes are seen, and nothing is compiled for them.

    Attributes
    ----------
    reason : str or None, why the model cannot be compiled; None for as long as it seems to be
    limit : str or None
        The setting of PyTorch's at which the model was compiled for no more shapes, with its value; those that it was compiled
        for stay so.
    seconds : float or None, how long the first call took, nearly all of it the compiler's
    due : bool, whether the model shall be compiled now; with "auto", from when `weigh` finds it worth its time
    """

    def __init__(self, model: nn.Module | Callable[..., Any], setting: bool | str) -> None:
        if not isinstance(setting, bool) and setting not in ("auto", *MODES):
            raise unknown("compile", setting, ["True", "False", "auto", *MODES])
        self.model, self.mode = model, setting if setting in MODES else None
        self.due = setting != "auto"
        self.reason: str | None = None
        self.limit: str | None = None
        self.seconds: float | None = None
        self._compiled: Callable[..., Any] | None = None
        self._module = model if self.mode is None and isinstance(model, nn.Module) else None  # whose weights may be constants
        self._frozen: freezing.Freezing | None = None  # the backend for which they are

    def weigh(self, seconds: float, rows: int, left: int) -> str | None:
        """Find out if compiling is worth its time: why it is, once; None otherwise.

        Parameters
        ----------
        seconds, rows
            How long the model took for so many rows. The first seconds tell nothing: kernels are made ready in them.
        left : int
            Rows that are to come.
        """
        if self.due or seconds < SECONDS / TIMES or seconds / rows * left < SECONDS * TIMES:
            return None
        self.due = True
        return f"compiling the model: about {seconds / rows * left / 60:,.0f} min of forwards are left"

    def prepare(self, device: torch.device) -> None:
        """Look for changed weights, before each piece of the queue and in the mode in which the model is called."""
        if self._module is not None and self.due and self.reason is None:
            in_eval = not any(getattr(part, "training", False) for part in self._module.modules())
            freezes = device.type == "cpu" and in_eval and freezing.unchanged(self._module)
            if freezes != (self._frozen is not None):
                self._frozen, self._compiled = freezing.Freezing(weakref.ref(self._module)) if freezes else None, None

    def __call__(self, rows: Tensor, b: int, extra: Sequence[Tensor] = ()) -> Tensor:
        """Outputs (len(rows), classes) of ``model(rows, *extra)``, for which what is compiled is given b rows.

        Warns
        -----
        UserWarning
            Once, where the model can be called but not compiled, with the reason; once, where PyTorch compiles it for no more
            shapes.
        """
        given = [rows, *extra]
        versions, start = [tensor._version for tensor in given], time.perf_counter()
        try:
            if self._compiled is None:  # not before: it imports for more than a second
                backend: dict[str, Any] = {"backend": self._frozen} if self._frozen else {}
                self._compiled = torch.compile(self.model, mode=self.mode, dynamic=False, **backend)
            with _limits() as reached:
                outputs = self._compiled(*(filled(tensor, b) for tensor in given))
            self.seconds = self.seconds or time.perf_counter() - start
        except Exception as error:  # of the compiler, of what it calls, or of the model
            if out_of_memory(error) or [tensor._version for tensor in given] != versions:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_REASON]
        else:
            self._tell(reached)
            return read(outputs, b)[: len(rows)]
        if self._module is not None and self._frozen:
            freezing.give_up(self._module)
            self._frozen = self._compiled = None
            return self(rows, b, extra)
        outputs = read(self.model(*given), len(rows))  # raises where the error is the model's
        self.reason, self._compiled = reason, None
        warnings.warn(f"the model cannot be compiled and is called as it is: {reason}", stacklevel=2)
        return outputs

    def _tell(self, reached: list[str]) -> None:
        """Warn of the first limit."""
        if reached and self.limit is None:
            self.limit = reached[0]
            warnings.warn(
                f"the model is compiled for no more shapes of its rows and called as it is for others, since torch._dynamo."
                f"{self.limit}: bring the images to fewer sizes, or raise that limit first",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None, "_frozen": None, "limit": None}  # what is compiled is of one process


@contextmanager
def _limits() -> Iterator[list[str]]:
    """Gives the limits that PyTorch comes to inside, in this thread."""
    reached: list[str] = []
    thread = threading.get_ident()

    def listen(record: logging.LogRecord) -> bool:
        if record.thread == thread and (found := _LIMIT.match(record.getMessage())):
            reached.append(f"{found[1]} is {found[2]}")
        return True

    log = logging.getLogger(_LOG)
    log.addFilter(listen)
    try:
        yield reached
    finally:
        log.removeFilter(listen)


def filled(rows: Tensor, b: int) -> Tensor:
    """As many as b rows, which lie in memory as ``rows`` do: those, and the first again and again."""
    if len(rows) == b:
        return rows
    plain = rows.is_contiguous() or not rows.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.contiguous_format if plain else torch.channels_last
    full = torch.empty(b, *rows.shape[1:], dtype=rows.dtype, device=rows.device, memory_format=memory_format)
    full[: len(rows)] = rows
    full[len(rows) :] = rows[:1]
    return full
