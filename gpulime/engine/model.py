"""Call the model: masked rows -> outputs, in a given precision, memory format and number of rows.

The model runs in eval mode without gradients; its flags, the random state and autocast are restored afterwards. Reduced
precision is autocast, which casts the weights for each piece of the queue and keeps no copy. The weights of a compiled model
(`gpulime.engine.compiled`) are compared before each piece, so new weights take effect at once. TF32 in the model is the user's
choice (``torch.backends.cuda.matmul.allow_tf32``, and ``torch.backends.cudnn.allow_tf32`` for convolutions).
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from gpulime import device as devices
from gpulime.engine import first_batch, ownership
from gpulime.engine import outputs as model_outputs
from gpulime.engine.class_columns import ClassColumns
from gpulime.engine.compiled import Compiled
from gpulime.engine.eval_mode import evaluating
from gpulime.engine.home import home
from gpulime.engine.stopwatch import Stopwatch
from gpulime.errors import GpulimeError, check, stage, unknown

Model = nn.Module | Callable[..., Any]
Inputs = Sequence[Tensor]  # further inputs of a model beside the rows, (b, ...) each
Activation = str | Callable[[Tensor], Tensor] | None

LOG = logging.getLogger("gpulime")
FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # tried if a module shows no weights
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda outputs: outputs.softmax(-1),
    "sigmoid": torch.sigmoid,
}

MOST_ROWS = 2**20
# The error of an exported program for any number of rows but its own; PyTorch 2.6 uses the second form.
_EXACT = re.compile(r"size\(\)\[0\] == (\d+)|shape\[0\] to be equal to (\d+)")


class Predictor:
    """A model and its calling convention: device, precision, activation, memory format and batch limit.

    Attributes
    ----------
    memory_format : torch.memory_format, the best one for the model's input
    most : int, the most rows in a call; falls if memory runs out
    classes : int or None, the columns of its activated output; None before the first call
    columns : ClassColumns or None, what becomes of the columns of its activated output
    forwards : int, rows passed so far
    watch : Stopwatch, time spent in the model
    """

    def __init__(
        self,
        model: Model,
        activation: Activation,
        precision: str,
        device: torch.device | str | None,
        compile: bool | str = False,
    ) -> None:
        model_outputs.refuse_other_frameworks(model)
        check(
            callable(model),
            f"model must be an nn.Module or a callable (b, ...) -> (b, classes); got {type(model).__name__}",
        )
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        if not (activation is None or callable(activation) or (isinstance(activation, str) and activation in ACTIVATIONS)):
            raise unknown("activation", activation, [*ACTIVATIONS, "None", "a callable"])
        self.model, self.activation, self.precision = model, activation, PRECISIONS[precision]
        self.module = model if isinstance(model, nn.Module) else None
        self._wanted_device = devices.named(device) if device is not None else None
        has_conv = self.module is not None and any(isinstance(m, nn.Conv2d) for m in self.module.modules())
        self.memory_format = torch.channels_last if has_conv else torch.contiguous_format
        self.forwards = 0
        self.watch = Stopwatch()
        self.most = MOST_ROWS
        self._starved = False  # True once memory has run out: the warning is given once
        self.classes: int | None = None
        self.columns: ClassColumns | None = None
        self._exact: int | None = None  # the only number of rows that the model takes
        self._dtypes: dict[tuple[torch.dtype, ...], torch.dtype] = {}  # of its weights -> of its input, found by trying
        self._compiled = Compiled(model, compile) if compile is not False else None
        self._full_batches = 0
        self._until = 0  # the value of `forwards` once all announced rows have been passed
        self._tell: Callable[[str], object] = LOG.info
        self._proven = not has_conv  # True if the model is known to take the memory format

    def announce(self, rows: int, tell: Callable[[str], object] = LOG.info) -> None:
        """Announce the number of rows to come; ``tell`` is called with a line if the model is worth compiling for them."""
        self._until, self._tell = self.forwards + rows, tell

    @property
    def left(self) -> int:
        """Announced rows that have not been passed."""
        return max(0, self._until - self.forwards)

    @property
    def not_compiled(self) -> str | None:
        """Reason why the model could not be compiled; None if it is compiled, or compiling was not asked for."""
        return None if self._compiled is None else self._compiled.reason

    @property
    def compile_seconds(self) -> float | None:
        """Compile time in seconds; None if the model is not compiled, or not yet."""
        return None if self._compiled is None else self._compiled.seconds

    @stage("model")
    def device(self, inputs: Tensor) -> torch.device:
        """Device of the work: the one asked for, else the model's, else that of the inputs."""
        return home(self._weights(), self._wanted_device, inputs)

    @stage("model")
    def dtype(self, inputs: Tensor, extra: Inputs = ()) -> torch.dtype:
        """Dtype of the model's input: the reduced precision, or the dtype of its weights; of several, the first that works.

        Parameters
        ----------
        inputs, extra : (n, ...)
            The first of each is passed to the model if its weights do not settle the dtype.
        """
        if self.precision != torch.float32:
            return self.precision
        of_weights = tuple(dict.fromkeys(t.dtype for t in self._weights() if t.is_floating_point()))
        if self.module is None or len(of_weights) == 1:
            return (*of_weights, torch.float32)[0]
        if of_weights not in self._dtypes:
            self._dtypes[of_weights] = self._first_taken(
                [inputs[:1], *(tensor[:1] for tensor in extra)], of_weights or FLOATING
            )
        return self._dtypes[of_weights]

    def _first_taken(self, given: Inputs, dtypes: Sequence[torch.dtype]) -> torch.dtype:
        with self.inference(given[0].device):
            for dtype in dtypes:
                with suppress(Exception):  # any other error comes up again in the first real call
                    self._run(
                        given[0].to(dtype, copy=True), *(tensor.clone() for tensor in given[1:])
                    )  # it may write into them
                    return dtype
        return dtypes[0]

    def _weights(self) -> Iterator[Tensor]:
        if self.module is not None:
            yield from self.module.parameters()
            yield from self.module.buffers()

    @contextmanager
    def inference(self, device: torch.device) -> Iterator[None]:
        """Set eval mode, no gradients and the precision; restore everything at the end."""
        reduced = self.precision != torch.float32
        if device.type == "cpu":
            devices.keep_memory()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"))
            # Cached weights may be older than the caller's last step; weights cast here have no gradient for the next step.
            torch.clear_autocast_cache()
            stack.callback(torch.clear_autocast_cache)
            stack.enter_context(torch.autocast(device.type, self.precision if reduced else None, enabled=reduced))
            if self.module is not None:
                stack.enter_context(evaluating(self.module))
            if self._compiled is not None:
                seconds, left = self.watch.seconds, self._until - self.forwards
                if (why := self._compiled.weigh(seconds, self.forwards, left, self.watch.launches_bind)) is not None:
                    self._tell(why)
                self._compiled.prepare(device)
            yield

    @stage("model")
    def __call__(self, rows: Tensor, full: int | None = None, extra: Inputs = ()) -> Tensor:
        """Activated outputs of the model for rows (b, ...): (b, classes) float32, or float64 if the model's are.

        If memory runs out, the rows are passed in halves, down to one: same rows, same outputs.

        Parameters
        ----------
        rows : (b, ...)
        full : int, optional
            Rows of a full batch, the size to compile the model for; without it the model is not compiled in this call.
        extra : tuple of tensors (b, ...)
            Further inputs of the model.

        Raises
        ------
        GpulimeError
            If `gpulime.engine.outputs.read` finds no (b, classes) tensor in the model's output, or the model ends the process.
        """
        is_first = self.classes is None
        # Copied, since the model may write into its input.
        ends = [torch.cat([tensor[:1], tensor[1:][-1:]]) for tensor in (rows, *extra)] if is_first else []
        self._full_batches += rows.shape[0] == full
        # The first one warms up, so the second shows if launches bind; that matters only if the model may be compiled later.
        alone = rows.shape[0] == full and self._full_batches == 2 and self._compiled is not None and not self._compiled.due
        with self.watch.running(rows.device, alone):
            outputs = self._forward(rows, full, extra)
        self.forwards += rows.shape[0]
        if is_first:
            outputs = outputs.clone()  # the model may reuse this memory for its next output
            self._look(outputs, ends)
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        if isinstance(self.activation, str):
            outputs = ACTIVATIONS[self.activation](outputs)
        elif self.activation is not None:
            outputs = model_outputs.read(self.activation(outputs), rows.shape[0], "activation")
        outputs = outputs if self.columns is None else self.columns(outputs)
        self.classes = outputs.shape[1]
        return outputs

    def _look(self, outputs: Tensor, ends: Inputs) -> None:
        """Warn after the first batch if explanations will be slow or wrong: a second softmax, a model that is random.

        Parameters
        ----------
        outputs : (b, classes)
            Outputs of the first batch.
        ends : tensors (2, ...)
            First and last row of that batch and of its extra inputs; a single row if the batch has one.
        """
        first_batch.warn(outputs, self.activation, self.precision, is_steady=self._is_steady(ends))

    def _is_steady(self, ends: Inputs) -> bool:
        """Compare the first row's outputs in two batches, to find dropout and statistics of the batch.

        Both calls have the same shape, so a deterministic model differs at most by the order of a GPU's sums.
        """
        if self._is_compiled():
            return True
        ends = [tensor[: self._exact] for tensor in ends]
        alike = [torch.cat([tensor[:1]] * len(tensor)) for tensor in ends]
        try:
            laid_out = [(rows.contiguous(memory_format=self.memory_format), extra) for rows, *extra in (ends, alike)]
            first, second = (self._call(rows, None, extra)[0].clone() for rows, extra in laid_out)
        except Exception:  # a model that takes no batch of two
            return True
        near = max(1e-4, 4 * torch.finfo(first.dtype).eps, 4 * torch.finfo(self.precision).eps)
        return not bool((first - second).abs().max() > near * first.abs().max())  # NaN counts as steady

    def _is_compiled(self) -> bool:
        """Tell if the user compiled a part of the model, which would be recompiled for another number of rows."""
        return self.module is not None and any("_orig_mod" in name for name, _ in self.module.named_modules())

    def _forward(self, rows: Tensor, full: int | None, extra: Inputs) -> Tensor:
        b, version = rows.shape[0], _versions(rows, extra)
        most = min(self.most, self._exact or self.most)
        if b > most:  # cloned, since the model may reuse this memory for its next output
            parts = zip(*(tensor.split(most) for tensor in (rows, *extra)), strict=True)
            return torch.cat([self._forward(part, full, more).clone() for part, *more in parts])
        try:
            outputs = self._proven_forward(rows, full, extra).to(rows.device)
        except (RuntimeError, MemoryError, AssertionError) as error:
            if self._exact is None and (found := _EXACT.search(str(error))) is not None:
                self._exact = int(found[1] or found[2])
                return self._forward(rows, full, extra)
            if b == 1 or not devices.out_of_memory(error):
                raise
        else:
            check(
                self.activation != "softmax" or outputs.shape[1] > 1,
                "the model returns one column, and softmax makes it 1 for every input; use activation='sigmoid', "
                "or None if it is no logit",
            )
            return outputs
        # Outside the handler, so that the failed call's tensors are gone.
        if _versions(rows, extra) != version:
            self.most = min(self.most, b // 2)  # for a caller that makes the rows again
            raise GpulimeError(
                f"out of memory with {b} rows, and the model writes into its input, so that they cannot be passed again: "
                "take a smaller batch_size or a model that copies"
            )
        self.shrink(b)
        return self._forward(rows, full, extra)

    def shrink(self, b: int) -> None:
        """Halve the most rows per call after memory ran out with b rows; warn the first time."""
        if not self._starved:
            warnings.warn(f"out of memory with {b} rows: going on with fewer", stacklevel=2)
        self._starved = True
        self.most = min(self.most, b // 2)

    def _proven_forward(self, rows: Tensor, full: int | None, extra: Inputs) -> Tensor:
        """Call the model; the first call tests if it takes channels_last, which a ``view`` inside may refuse."""
        if not self._proven:
            try:
                # Cloned, since the model may write into its input before it fails.
                outputs = self._call(rows.clone(), None, [tensor.clone() for tensor in extra])
            except RuntimeError as error:
                if devices.out_of_memory(error) or not re.search("view|stride|contiguous|memory.?format", str(error)):
                    raise
                self.memory_format = torch.contiguous_format
                if self.module is not None:
                    ownership.convert(self.module, self.memory_format)  # its outputs would be in channels_last, too
                self._proven = True
                return self._call(rows.contiguous(), full, extra)
            self._proven = True
            return outputs
        return self._call(rows if self.memory_format is torch.channels_last else rows.contiguous(), full, extra)

    def _call(self, rows: Tensor, full: int | None, extra: Inputs) -> Tensor:
        """Outputs (b, classes) of the model, compiled if it is due and ``full`` is given."""
        n = rows.shape[0]
        b = self._exact or n
        if full is not None and self._compiled is not None and self._compiled.due and self._compiled.reason is None:
            return self._compiled(rows, self._exact or min(full, self.most), extra)
        outputs = model_outputs.read(self._run(*(devices.filled(tensor, b) for tensor in (rows, *extra))), b)
        return outputs if b == n else outputs[:n]

    def _run(self, rows: Tensor, *extra: Tensor) -> Any:
        try:
            return self.model(rows, *extra)
        except SystemExit as error:
            raise GpulimeError(f"the model called sys.exit({error.code!r})") from error


def _versions(rows: Tensor, extra: Inputs) -> list[int]:
    """Version counters of the inputs, which change if the model writes into them."""
    return [tensor._version for tensor in (rows, *extra)]
