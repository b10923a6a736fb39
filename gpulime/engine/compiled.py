"""Compile the model by torch.compile, for few batch sizes; fall back to the model itself if it cannot be compiled.

Only the model is compiled, not the op that writes its rows (`gpulime.ops.masked_images`). A batch that spans two flights calls
the op several times, and the number of parts, so the shape of the masks, changes from flight to flight. Each would need its
own graph, or one with dynamic sizes, which CUDA graphs do not support. The op's kernel is a single launch. Even with all sizes
fixed, one graph of both takes longer on a CPU (``benchmarks.run --only op_compiled_bfloat16``).
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

from gpulime.device import filled, out_of_memory
from gpulime.engine import freezing
from gpulime.engine.outputs import read
from gpulime.engine.ownership import is_owned
from gpulime.errors import GpulimeError, unknown

GRAPHS = "reduce-overhead"  # the mode with CUDA graphs
MODES = (GRAPHS, "max-autotune", "max-autotune-no-cudagraphs")  # torch.compile's own words
SECONDS, TIMES = 40.0, 10  # "auto" assumes that compiling takes 40 s, and compiles if 10 times that of forwards are left
MOST_REASON = 300  # characters: a compiler may give its whole command line

# PyTorch reports only in its log that it has reached a limit of compiled shapes and calls the model itself for further ones.
_LOG, _LIMIT = "torch._dynamo.convert_frame", re.compile(r"torch\._dynamo hit (config\.\w+) \((\d+)\)")


class Compiled:
    """A compiled model.

    Each batch size is compiled separately, which takes seconds to minutes, so smaller batches are padded. The weights of a
    module in eval mode are constants of the compiled graph (`gpulime.engine.freezing`) on a CPU, and on a GPU if the model is
    owned (`gpulime.engine.ownership`). After their first change the model is compiled once more, with its weights as arguments:
    later changes take effect without compiling.

    Attributes
    ----------
    reason : str or None, the error that kept the model from being compiled
    limit : str or None
        The PyTorch setting, with its value, that stopped compiling for further shapes; shapes compiled before stay compiled.
    seconds : float or None, time of the first call, nearly all of it spent in the compiler
    due : bool, True if the model is to be compiled now; with "auto", once `weigh` finds it worth its time
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
        # The module if its weights may become constants, and the backend that makes them so.
        self._module = model if self.mode in (None, GRAPHS) and isinstance(model, nn.Module) else None
        self._frozen: freezing.Freezing | None = None

    def weigh(self, seconds: float, rows: int, left: int, launches_bind: bool = False) -> str | None:
        """Decide if compiling is worth its time: the reason, once, if it is; None otherwise.

        Parameters
        ----------
        seconds, rows
            Time the model took, and for how many rows. The first seconds are ignored: they include warm-up.
        left : int
            Rows to come.
        launches_bind : bool
            True if a call of the model takes as long as its launches: it is then compiled with CUDA graphs.
        """
        if self.due or seconds < SECONDS / TIMES or seconds / rows * left < SECONDS * TIMES:
            return None
        self.due = True
        how = ""
        if launches_bind:
            self.mode, how = GRAPHS, " with CUDA graphs, since its launches take longer than its work"
        return f"compiling the model{how}: about {seconds / rows * left / 60:,.0f} min of forwards are left"

    def prepare(self, device: torch.device) -> None:
        """Check for changed weights; call it before each piece of the queue, in the mode in which the model will run."""
        if self._module is not None and self.due and self.reason is None:
            in_eval = not any(getattr(part, "training", False) for part in self._module.modules())
            may = device.type == "cpu" or is_owned(self._module)
            freezes = may and in_eval and freezing.unchanged(self._module)
            if freezes != (self._frozen is not None):
                backend = freezing.Freezing(weakref.ref(self._module), self.mode == GRAPHS)
                self._frozen, self._compiled = backend if freezes else None, None

    def __call__(self, rows: Tensor, b: int, extra: Sequence[Tensor] = ()) -> Tensor:
        """Outputs (len(rows), classes) of ``model(rows, *extra)``; the compiled model is called with b rows, padded if need be.

        Warns
        -----
        UserWarning
            Once if the model works but cannot be compiled, with the reason; once if PyTorch compiles it for no more shapes.
        """
        given = [rows, *extra]
        versions, start = [tensor._version for tensor in given], time.perf_counter()
        try:
            if self._compiled is None:  # made at first use, since its imports take more than a second
                how: dict[str, Any] = {"backend": self._frozen} if self._frozen else {"mode": self.mode}
                self._compiled = torch.compile(self.model, dynamic=False, **how)
            with _limits() as reached:
                outputs = self._compiled(*(filled(tensor, b) for tensor in given))
            self.seconds = self.seconds or time.perf_counter() - start
        except SystemExit as error:
            raise GpulimeError(f"the model called sys.exit({error.code!r})") from error
        except Exception as error:  # from the compiler, from a tool that it calls, or from the model
            if out_of_memory(error) or [tensor._version for tensor in given] != versions:
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_REASON]
        else:
            self._tell(reached)
            return read(outputs, b)[: len(rows)]
        outputs = read(self.model(*given), len(rows))  # raises if the error is the model's
        if self._module is not None and self._frozen:  # the next batch is compiled with weights as arguments
            freezing.give_up(self._module)
            self._frozen = self._compiled = None
            return outputs
        self.reason, self._compiled = reason, None
        warnings.warn(f"the model cannot be compiled and runs uncompiled: {reason}", stacklevel=2)
        return outputs

    def _tell(self, reached: list[str]) -> None:
        """Warn about the first limit reached."""
        if reached and self.limit is None:
            self.limit = reached[0]
            warnings.warn(
                "the model is compiled for no more shapes of its rows, or models of its class, and runs uncompiled for others, "
                f"since torch._dynamo.{self.limit}: bring the inputs to fewer sizes, or raise that limit first",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None, "_frozen": None, "limit": None}  # compiled code cannot be pickled


@contextmanager
def _limits() -> Iterator[list[str]]:
    """Collect the limits that PyTorch reaches inside the context, in this thread."""
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
