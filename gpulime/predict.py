"""Masked rows -> outputs: how the model is called, in which precision and memory format, and with how many rows.

The model stays the user's: it runs in eval mode and without gradients, and its flags, the random state and autocast are put
back. Reduced precision is autocast, which casts the weights anew for each piece of the queue and keeps no copy; on a CPU the
steps behind a convolution are folded into it (`gpulime.folding`), anew for each piece too; a model that is compiled
(`gpulime.compiled`) takes its weights anew for each batch. So new weights are seen at once. TF32 in the model is the user's own
choice (``torch.backends.cuda.matmul.allow_tf32``).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gpulime import device as devices
from gpulime.compiled import Compiled
from gpulime.errors import GpulimeError, check, unknown
from gpulime.folding import Folding

Model = nn.Module | Callable[..., Tensor]
Inputs = Sequence[Tensor]  # what a model takes beside the rows, (b, ...) each
Activation = str | Callable[[Tensor], Tensor] | None

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda outputs: outputs.softmax(-1),
    "sigmoid": torch.sigmoid,
}


MOST_ROWS = 2**20


class Predictor:
    """A model and the way it is called.

    Attributes
    ----------
    memory_format : torch.memory_format, what the model's input is best given in
    most : int, the most rows it can be given; falls when memory runs out
    classes : int or None, the columns of its activated output, once it has been called
    forwards : int, the rows it has been given
    watch : Stopwatch, how long the model took
    """

    def __init__(
        self,
        model: Model,
        activation: Activation,
        precision: str,
        device: torch.device | str | None,
        compile: bool | str = False,
    ) -> None:
        check(
            callable(model),
            f"model must be an nn.Module or a callable (b,c,h,w) -> (b,classes); got {type(model).__name__}",
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
        self.watch = devices.Stopwatch()
        self.most = MOST_ROWS
        self._starved = False  # whether memory has run out, which is said once
        self.classes: int | None = None
        self._has_conv = has_conv
        self._folding: Folding | None = None  # inside `inference`
        self._compiled = Compiled(model, compile) if compile is not False else None
        self._proven = not has_conv  # whether the memory format is known to suit the model

    @property
    def not_compiled(self) -> str | None:
        """Why a model that shall be compiled is not; None where it is, or need not be."""
        return None if self._compiled is None else self._compiled.reason

    @property
    def compile_seconds(self) -> float | None:
        """How long compiling the model took; None where it is not compiled, or not yet."""
        return None if self._compiled is None else self._compiled.seconds

    def device(self, images: Tensor) -> torch.device:
        """Where the work is done: as asked, else where the model is, else where the images are."""
        home = next((t.device for t in self._weights()), None)
        wanted = self._wanted_device
        if home is not None and wanted is not None:
            same = home.type == wanted.type and wanted.index in (None, home.index)
            check(
                same,
                f"the model is on {home} and device={str(wanted)!r} was asked for; move it with model.to({str(wanted)!r})",
            )
        device = home or wanted or images.device
        check(device.type in ("cpu", "cuda"), f"gpulime works on 'cpu' and 'cuda'; got {str(device)!r}: move it there with .to")
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's input: the precision, or the model's own where that is not float32."""
        if self.precision != torch.float32:
            return self.precision
        return next((t.dtype for t in self._weights() if t.is_floating_point()), torch.float32)

    def _weights(self) -> Iterator[Tensor]:
        if self.module is not None:
            yield from self.module.parameters()
            yield from self.module.buffers()

    @contextmanager
    def inference(self, device: torch.device) -> Iterator[None]:
        """Eval mode, no gradients, the asked precision; everything is put back as it was."""
        reduced = self.precision != torch.float32
        if device.type == "cpu":
            devices.keep_memory()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"))
            # The cache may hold weights from before the caller's last step, and those cast here have no gradient for the next.
            torch.clear_autocast_cache()
            stack.callback(torch.clear_autocast_cache)
            stack.enter_context(torch.autocast(device.type, self.precision if reduced else None, enabled=reduced))
            if self.module is not None:
                stack.enter_context(_evaluating(self.module))
            if self.module is not None and self._has_conv and device.type == "cpu" and Folding.suits(self.module):
                self._folding = Folding()
            try:
                yield
            finally:
                self._folding = None

    def __call__(self, rows: Tensor, full: int | None = None, extra: Inputs = ()) -> Tensor:
        """Outputs of the model for (b, c, h, w) rows: (b, classes) float32 (float64 if the model's are), activated.

        Where memory runs out the rows are passed in halves, down to one: the same rows, the same answer.

        Parameters
        ----------
        rows : (b, c, h, w)
        full : int, optional
            The rows of a full batch, for which the model is compiled if it shall be; without it, it is called as it is.
        extra : tuple of tensors (b, ...)
            Further inputs of the model.

        Raises
        ------
        GpulimeError
            If the model returns anything but a (b, classes) tensor.
        """
        with self.watch.running(rows.device):
            outputs = self._forward(rows, full, extra)
        self.forwards += rows.shape[0]
        activate = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        if self.classes is None:
            self._look(outputs)
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        if activate is not None:
            outputs = checked(activate(outputs), rows.shape[0], "activation")
        self.classes = outputs.shape[1]
        return outputs

    def _look(self, outputs: Tensor) -> None:
        """Once, at the first outputs: probabilities must not go through a softmax again, and bfloat16 may bring nothing."""
        if self.precision == torch.bfloat16 and outputs.device.type == "cpu" and devices.cpu_bfloat16() is False:
            warnings.warn(
                "this CPU has no instructions for bfloat16: precision='float32' is likely as fast; gpulime bench measures it",
                stacklevel=2,
            )
        near = max(1e-3, 2 * torch.finfo(outputs.dtype).eps)
        if self.activation == "softmax" and bool(((outputs >= 0).all(1) & ((outputs.float().sum(1) - 1).abs() < near)).all()):
            warnings.warn(
                "the model's outputs already sum to one, and activation='softmax' takes their softmax again: "
                "pass activation=None",
                stacklevel=2,
            )

    def _forward(self, rows: Tensor, full: int | None, extra: Inputs) -> Tensor:
        b, version = rows.shape[0], _versions(rows, extra)
        if b > self.most:  # cloned, since the model may write its next answer to the same memory
            parts = zip(*(tensor.split(self.most) for tensor in (rows, *extra)), strict=True)
            return torch.cat([self._forward(part, full, more).clone() for part, *more in parts])
        try:
            outputs = checked(self._proven_forward(rows, full, extra), b, "model").to(rows.device)
        except (RuntimeError, MemoryError) as error:
            if b == 1 or not devices.out_of_memory(error):
                raise
        else:
            check(
                self.activation != "softmax" or outputs.shape[1] > 1,
                "the model returns one column, and softmax makes it 1 for every image; use activation='sigmoid'",
            )
            return outputs
        # Outside the handler, so that the failed call's tensors are gone.
        if _versions(rows, extra) != version:
            self.most = min(self.most, b // 2)  # for those who make the rows again
            raise GpulimeError(
                f"out of memory with {b} rows, and the model writes into its input, so that they cannot be passed again: "
                "take a smaller batch_size or a model that copies"
            )
        self.shrink(b)
        return self._forward(rows, full, extra)

    def shrink(self, b: int) -> None:
        """Memory ran out with b rows: from now on take half of that at most; said once."""
        if not self._starved:
            warnings.warn(f"out of memory with {b} rows: going on with fewer", stacklevel=2)
        self._starved = True
        self.most = min(self.most, b // 2)

    def _proven_forward(self, rows: Tensor, full: int | None, extra: Inputs) -> Any:
        """Call the model; on the first rows find out whether it takes channels_last, which a ``view`` inside may refuse."""
        if not self._proven:
            try:
                # It may write into them before it refuses.
                outputs = self._call(rows.clone(), None, [tensor.clone() for tensor in extra])
            except RuntimeError as error:
                if devices.out_of_memory(error) or not re.search("view|stride|contiguous|memory.?format", str(error)):
                    raise
                self.memory_format = torch.contiguous_format
                self._proven = True
                return self._call(rows.contiguous(), full, extra)
            self._proven = True
            return outputs
        return self._call(rows if self.memory_format is torch.channels_last else rows.contiguous(), full, extra)

    def _call(self, rows: Tensor, full: int | None, extra: Inputs) -> Any:
        if full is not None and self._compiled is not None and self._compiled.reason is None:
            return self._compiled(rows, min(full, self.most), extra)
        if self._folding is None or extra:  # folding knows models of one input
            return self.model(rows, *extra)
        return self._folding(self.model, rows)


_in_eval: WeakKeyDictionary[nn.Module, tuple[int, list[tuple[nn.Module, bool]]]] = WeakKeyDictionary()
_in_eval_lock = Lock()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode; the last of the threads that are in it puts the modes of all parts back."""
    with _in_eval_lock:
        users, modes = _in_eval.get(module) or (0, [(part, part.training) for part in module.modules()])
        if any(training for _, training in modes):
            module.eval()
        _in_eval[module] = users + 1, modes
    try:
        yield
    finally:
        with _in_eval_lock:
            users, modes = _in_eval.pop(module)
            if users > 1:
                _in_eval[module] = users - 1, modes
            else:
                for part, training in modes:
                    part.training = training


def _versions(rows: Tensor, extra: Inputs) -> list[int]:
    """These change if the model writes into its input."""
    return [tensor._version for tensor in (rows, *extra)]


def checked(outputs: Any, b: int, source: str) -> Tensor:
    """``outputs`` if it is a (b, classes) floating tensor, else an error that says what it is and what to write."""
    if isinstance(outputs, Tensor):
        shape = tuple(outputs.shape)
        check(
            outputs.ndim == 2 and shape[0] == b and shape[1] > 0,
            f"the {source} must return (b, classes) with b = {b}; got {shape}",
        )
        check(outputs.is_floating_point(), f"the {source} must return a floating tensor; got {outputs.dtype}")
        return outputs
    if hasattr(outputs, "logits"):
        part = "model(x).logits"
    elif isinstance(outputs, dict):
        part = f"model(x)[key] with one of {list(outputs)[:5]}"
    elif isinstance(outputs, tuple | list):
        part = "model(x)[0]"
    else:
        part = "one"
    # A module, and no function: it keeps its mode, its device and its dtype known, and lime_image gives functions arrays.
    hint = f"wrap it in an nn.Module whose forward returns {part}"
    raise GpulimeError(f"the {source} must return a (b, classes) tensor; got {type(outputs).__name__}: {hint}")
