"""gpulime as a method of captum: `Lime` stands in captum's class hierarchy, and its metrics and NoiseTunnel take it.

>>> from gpulime.captum import Lime
>>> Lime(model).attribute(inputs, target=3, feature_mask=segments)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpulime import arrays
from gpulime.errors import GpulimeError, check
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch

try:
    from captum.attr import PerturbationAttribution
    from captum.log import log_usage
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('gpulime.captum needs captum: pip install "gpulime[compare]"', name="captum") from error

OF_A_CALL = {"n_samples": "n_samples", "fill": "baselines", "batch_size": "perturbations_per_eval"}  # setting -> argument


class Lime(PerturbationAttribution):  # type: ignore[misc]
    """LIME of images with the interface of captum's Lime: all inputs in one queue, and the masks a function of the seed alone.

    Parameters
    ----------
    forward_func : nn.Module or callable
        (n, c, h, w) -> (n, classes), or (n,) without a target. A module runs in eval mode.
    **settings
        As for `gpulime.Explainer`, with other defaults: the output is explained as it is (``activation=None``), inputs are
        taken as they are (``normalized=True, mean=0, std=1``), and without a feature mask segments are cells of a 7 x 7 grid.
        A segmenter that sees colours, such as "slic", needs the right mean and std.

    Raises
    ------
    GpulimeError
        If a setting is an argument of `attribute`.
    """

    def __init__(self, forward_func: Callable[..., Any], **settings: Any) -> None:
        PerturbationAttribution.__init__(self, forward_func)
        for setting, argument in OF_A_CALL.items():
            check(setting not in settings, f"{setting} is the argument {argument!r} of attribute()")
        defaults = {"activation": None, "normalized": True, "mean": 0.0, "std": 1.0, "segments": "grid"}
        self.settings = {**defaults, **settings}

    @log_usage()  # type: ignore[untyped-decorator]  # NoiseTunnel looks for the function inside
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor],
        baselines: float | Tensor | tuple[float | Tensor] | None = None,
        target: int | Tensor | list[int] | None = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor] | None = None,
        n_samples: int | str | None = None,
        perturbations_per_eval: int | str = "auto",
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Tensor | tuple[Tensor]:
        """Attribute.

        Parameters
        ----------
        inputs : (n, c, h, w) float, or a tuple of one such tensor
        baselines : number, (1 | n, c, h, w), or a tuple of one; optional
            Values of hidden pixels; 0 by default.
        target : int, or n of them
            Class of each input; None if the forward function returns one number for each.
        additional_forward_args : any, or a tuple
            Further arguments of the forward function; tensors (n, ...) are repeated with the inputs.
        feature_mask : (1 | n, 1, h, w) integers, or (1 | n, c, h, w) that do not differ by channel; optional
            Segment of each pixel; ids may have gaps.
        n_samples : int or "auto", optional
            By default that of `gpulime.Explainer`.
        perturbations_per_eval : int or "auto"
            Rows of a call.
        return_input_shape : bool
            False returns coefficients: (n, ids), in the order of the ids from the lowest to the highest.
        show_progress : bool
            Show a progress bar.

        Returns
        -------
        (n, c, h, w), or (n, ids), in the dtype of the inputs; a tuple if the inputs are one

        Raises
        ------
        GpulimeError
            If an argument is invalid, there are several inputs, or masks differ by channel.
        """
        images = _only("inputs", inputs)
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        check(isinstance(images, Tensor) and images.ndim == 4, f"inputs must be images (n, c, h, w); got {got}")
        constants, extra = _arguments(additional_forward_args, len(images))
        explainer = Explainer(
            _filled(self.forward_func, constants),
            n_samples,
            fill=0.0 if baselines is None else _only("baselines", baselines),
            batch_size=perturbations_per_eval,
            **self.settings,
        )
        segments = None if feature_mask is None else _segments(_only("feature_mask", feature_mask), images)
        labels = _labels(target, images, explainer, extra)
        found = _explained(explainer, Batch(images, labels, segments, extra=extra), show_progress)
        attributions = found.heatmaps()[:, :1].expand(images.shape) if return_input_shape else _coefficients(found)
        attributions = attributions.to(images)
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def has_convergence_delta(self) -> bool:
        """Tell captum that coefficients do not add up to the output."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """Tell captum that coefficients are no products with the inputs' values."""
        return False


class _Filled(nn.Module):
    """A module with constants among its further arguments."""

    def __init__(self, module: nn.Module, constants: dict[int, Any]) -> None:
        super().__init__()
        self.module, self.constants = module, constants

    def forward(self, rows: Tensor, *extra: Tensor) -> Any:
        """Call the module with all arguments in their places."""
        return self.module(rows, *_placed(self.constants, extra))


def _filled(function: Callable[..., Any], constants: dict[int, Any]) -> Callable[..., Any]:
    """A forward function with constants among its further arguments."""
    if isinstance(function, nn.Module):
        return _Filled(function, constants) if constants else function
    return lambda rows, *extra: function(rows, *_placed(constants, extra))


def _placed(constants: dict[int, Any], extra: tuple[Tensor, ...]) -> list[Any]:
    """Constants in their places, and the other arguments in between."""
    others = iter(extra)
    return [constants[i] if i in constants else next(others) for i in range(len(constants) + len(extra))]


def _arguments(given: Any, n: int) -> tuple[dict[int, Any], tuple[Tensor, ...]]:
    """Additional arguments: constants by their place, and tensors (n, ...)."""
    listed = () if given is None else given if isinstance(given, tuple) else (given,)
    per_input = {i: one for i, one in enumerate(listed) if isinstance(one, Tensor) and one.ndim and len(one) == n}
    return {i: one for i, one in enumerate(listed) if i not in per_input}, tuple(per_input.values())


def _only(name: str, given: Any) -> Any:
    """The entry of a tuple of one."""
    if not isinstance(given, tuple):
        return given
    check(len(given) == 1, f"{name} must be one tensor, since gpulime explains one input of a model; got {len(given)}")
    return given[0]


def _segments(mask: Tensor, images: Tensor) -> Tensor:
    """Label maps (n, h, w) from a feature mask."""
    n, c, h, w = images.shape
    right = f"feature_mask must be (1 | n, 1 | c, h, w) with (n, c, h, w) = {(n, c, h, w)}"
    got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    fits = isinstance(mask, Tensor) and mask.ndim == 4 and len(mask) in (1, n) and mask.shape[1] in (1, c)
    check(fits and mask.shape[2:] == (h, w), f"{right}; got {got}")
    same = bool((mask == mask[:, :1]).all())
    check(same, "feature_mask must not differ by channel: gpulime hides whole pixels")
    return mask[:, 0].expand(n, h, w)


def _labels(target: Any, images: Tensor, explainer: Explainer, extra: tuple[Tensor, ...]) -> Tensor:
    """Targets as labels (n, 1)."""
    n = len(images)
    if target is None:
        columns = _columns(images[:1], explainer, tuple(one[:1] for one in extra))
        check(columns == 1, f"target must be given, since the forward function returns {columns} columns; got None")
        return torch.zeros(n, 1, dtype=torch.int64)
    found = None if isinstance(target, tuple) else arrays.tensor(target)
    if found is None or found.is_floating_point() or found.numel() not in (1, n) or found.ndim > 1:
        raise GpulimeError(f"target must be a class, or n = {n} of them; got {target!r:.100}")
    check(int(found.min()) >= 0, f"target must be 0 or more; got {target!r:.100}")
    return found.long().reshape(-1, 1).expand(n, 1)


def _columns(image: Tensor, explainer: Explainer, extra: tuple[Tensor, ...]) -> int:
    """Count the columns of the output for one input."""
    device = explainer.predictor.device(image)
    given = [one.detach().to(device, copy=True) for one in extra]
    with explainer.predictor.inference(device):
        return explainer.predictor(explainer.preparation.for_model(image.detach().to(device), given), None, given).shape[1]


def _explained(explainer: Explainer, batch: Batch, show_progress: bool) -> ExplainedImages:
    """Explanations of a batch; an error about its labels is one about the argument ``target``."""
    try:
        return _streamed(explainer, batch, show_progress)
    except GpulimeError:
        highest, extra = int(batch.labels.max()), tuple(one[:1] for one in batch.extra)
        columns = _columns(batch.images[:1], explainer, extra) if highest else 1  # a forward, after a failure alone
        check(highest < columns, f"target must be below the forward function's {columns} classes; got {highest}")
        raise


def _streamed(explainer: Explainer, batch: Batch, show_progress: bool) -> ExplainedImages:
    if not show_progress:
        return explainer.explain(batch.images, batch.labels, batch.segments, extra=batch.extra)
    from tqdm import tqdm

    with tqdm(total=len(batch) * explainer.n_samples, desc="Lime attribution", unit="row") as bar:
        return ExplainedImages.cat(list(explainer.stream([batch], bar.update)))


def _coefficients(found: ExplainedImages) -> Tensor:
    """Coefficients (n, ids) of the ids from the lowest to the highest; 0 for those that an image lacks."""
    known = found.segment_ids >= 0  # -1 pads
    lowest, highest = int(found.segment_ids[known].min()), int(found.segment_ids.max())
    columns = (found.segment_ids - lowest).where(known, highest - lowest + 1)
    made = found.coefficients.new_zeros(len(found), highest - lowest + 2)
    return made.scatter(1, columns, found.coefficients[:, 0])[:, :-1]
