"""The settings of a run, as they stand in a YAML file and as options of ``gpulime explain``; without torch.

Every field has the line that ``gpulime explain --help`` shows for it. A setting is named ``section.field``
(``lime.n_samples``) in options, in messages and here.
"""
# ruff: noqa: RUF009  (what _setting returns is a dataclass field, made for this one place)

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from gpulime.errors import GpulimeError, check, nearest

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # with one slash, too: what pathlib makes of two; a drive has one letter
CHANGES_NO_ROW = {
    "out",
    "report",
    "max_failures_in_a_row",
    "data.workers",
    "data.batch_size",
    "data.timeout_seconds",
    "data.bands",
    "data.limit",
    "data.shard",
    "lime.batch_size",
    "lime.compile",
    "lime.device",
    "store.flush_rows",
    "store.flush_seconds",
}

AUTO = "auto"
# Settings that depend on the kind of inputs. The explainers of texts and tables know an activation "auto" themselves.
AUTOMATIC: dict[str, dict[str, Any]] = {
    "image": {"kernel_width": 0.25, "distance": "cosine", "activation": "softmax"},
    "text": {"kernel_width": 0.25, "distance": "cosine"},
    "row": {"kernel_width": None, "distance": "euclidean"},
}
# Settings that concern texts and tables alone, images alone, and inputs whose parts are masked: all but tables.
OF_RECORDS = {
    *(f"model.{name}" for name in ("tokenizer", "estimator", "trusted", "pickle")),
    *(f"data.{name}" for name in ("text", "columns", "id", "target", "strings", "training")),
}
OF_IMAGES = {
    *(f"data.{name}" for name in ("factory", "kwargs", "resize", "crop", "interpolation", "channels", "exif", "masks", "keep")),
    *(f"data.{name}" for name in ("max_megapixels", "max_megabytes")),
    *(f"lime.{name}" for name in ("segments", "fill", "mean", "std")),
}
OF_MASKS = {f"lime.{name}" for name in ("quality", "sampler", "estimator", "link", "tolerance", "confidence", "max_samples")}


def _setting(default: Any, line: str) -> Any:
    """A field with its line for ``--help``; a callable default is a factory."""
    about: dict[str, Any] = {"metadata": {"help": line}}
    return field(default_factory=default, **about) if callable(default) else field(default=default, **about)


@dataclass(frozen=True)
class ModelConfig:
    """The model that is explained."""

    factory: str | None = _setting(
        None, "function that makes the model, by import path: torchvision.models.resnet18, timm.create_model, my_project:make"
    )
    kwargs: dict[str, Any] = _setting(dict, "arguments of that function, e.g. {weights: IMAGENET1K_V1}")
    tokenizer: str | None = _setting(
        None, "for texts and a model of token ids, a function that makes its tokenizer: my_project:make_tokenizer"
    )
    estimator: str | None = _setting(
        None, "for texts and tables, a fitted estimator: a .skops file, or an import path: my_project:estimator"
    )
    trusted: list[str] = _setting(list, "types in the .skops file that may be loaded, beside scikit-learn's own")
    pickle: str | None = _setting(
        None, "instead, a pickle or joblib file: it runs any code in it, so take only one of your own"
    )
    checkpoint: str | None = _setting(
        None, "weights to load: a .safetensors, a .pt or .pth holding tensors only, or package://PACKAGE/FILE"
    )
    class_names: list[str] | str | None = _setting(
        None,
        "names of the classes: [a, b], a .txt (one a line), a .json, or the import path of torchvision weights",
    )


@dataclass(frozen=True)
class DataConfig:
    """Inputs, and the conversion of images to the model's input; sizes that are not set are the model's own."""

    source: str = _setting(
        "skimage", "a folder (flat, or one folder a class), a .txt or .csv list of files, one image, or skimage"
    )
    factory: str | None = _setting(
        None, "function that makes a dataset, by import path, instead of source: my_project:make_data"
    )
    kwargs: dict[str, Any] = _setting(dict, "arguments of that function, e.g. {split: val}")
    workers: int = _setting(0, "processes that read images; 0 reads in the main one, while the model waits")
    batch_size: int = _setting(16, "images read at a time")
    timeout_seconds: float = _setting(120.0, "a worker without output for this long counts as hanging, and is restarted")
    limit: int | None = _setting(None, "explain only the first N images")
    shard: str | None = _setting(None, "explain only a part of the images, such as 2/8; all parts of a run share its directory")
    resize: int | None = _setting(None, "pixels of the shorter side after resizing")
    crop: int | None = _setting(None, "pixels of the centre crop's side")
    interpolation: Literal["nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None = _setting(
        None, "interpolation for resizing"
    )
    channels: int | None = _setting(None, "channels of an image; by default as many as the model's first convolution takes")
    max_megapixels: float = _setting(50.0, "larger images become error rows, before they are decoded")
    max_megabytes: float = _setting(1000.0, "larger files become error rows, before they are read")
    exif: Literal["ignore", "apply"] = _setting(
        "ignore", "a camera's rotation tag: ignored as torchvision's ImageFolder does, or applied"
    )

    masks: str | None = _setting(
        None, "a folder of mask images that are used as segments: each image's path there, with .png, .npy or .tif"
    )
    keep: int | list[int] | None = _setting(None, "ids in the masks that are never hidden, such as 0 or [0, 255]")

    text: str | None = _setting(
        None, "explain texts: their column in the source, a .csv, .parquet or .jsonl file with one a row"
    )
    columns: list[str] | Literal["all"] | None = _setting(
        None, "explain table rows: the columns of the model's input in such a file, or all but those of ids and targets"
    )
    id: str | None = _setting(None, "for texts and tables, the column of ids; by default the number of the row, from 0")
    target: str | None = _setting(None, "for texts and tables, the column of the true class, as an index or a name")
    strings: list[str] = _setting(list, "columns of a .csv table that are text although they look like numbers: zip codes")
    training: str | None = _setting(
        None, "for tables, a file with the rows of training, for bins and draws; by default the source itself"
    )

    bands: list[int] | None = _setting(
        None, "channels that reports show as red, green and blue, from 1: [4, 3, 2]; the first three if it is not set"
    )

    def __post_init__(self) -> None:
        three = self.bands is None or (len(self.bands) == 3 and min(self.bands) >= 1)
        check(three, f"data.bands must be three numbers from 1, such as [4, 3, 2]; got {self.bands}")
        check(self.text is None or self.columns is None, "data.text explains texts, data.columns a table: set one of the two")
        at_least = {"workers": 0, "batch_size": 1, "limit": 1, "resize": 1, "crop": 1, "channels": 1}
        for name, least in at_least.items():
            value = getattr(self, name)
            check(value is None or value >= least, f"data.{name} must be {least} or more; got {value}")
        check(self.timeout_seconds > 0, f"data.timeout_seconds must be above 0; got {self.timeout_seconds}")
        check(self.max_megapixels > 0, f"data.max_megapixels must be above 0; got {self.max_megapixels}")
        check(self.max_megabytes > 0, f"data.max_megabytes must be above 0; got {self.max_megabytes}")


@dataclass(frozen=True)
class LimeConfig:
    """Settings of the explanation: the arguments of `gpulime.Explainer`, with the same names."""

    quality: Literal["fast", "lime", "high"] | None = _setting(
        "fast", "preset of n_samples, sampler, estimator and link; a setting given beside it wins"
    )
    n_samples: int | Literal["auto"] | None = _setting(
        None, "masked copies of each input, and so forwards; auto: until its answer is settled; if not set, the preset's"
    )
    segments: dict[str, Any] | str = _setting(
        lambda: {"slic": {"n_segments": 60}}, "slic, quickshift, felzenszwalb or grid, by name or with options as here"
    )
    fill: float | list[float] | str = _setting(
        "mean", "pixels of a hidden segment: mean (of the segment), blur, a number or a colour [r, g, b] in 0..1"
    )
    sampler: str | None = _setting(
        None, "sampler of masks: blocks, antithetic, exhaustive, bernoulli, or lime for its own draws; if not set, the preset's"
    )
    estimator: str | None = _setting(None, "estimator of coefficients: gp, wls, or ridge as lime; if not set, the preset's")
    link: str | None = _setting(None, "model of the output, for gp: identity, logit or auto; if not set, the preset's")
    tolerance: float | None = _setting(
        None, "for n_samples: auto, the standard error to reach; by default the five largest segments and signs"
    )
    confidence: float = _setting(0.95, "for n_samples: auto without a tolerance, the probability of the right segments")
    max_samples: int = _setting(4096, "for n_samples: auto, the most samples of an image")
    top_labels: int = _setting(5, "number of classes to explain, the most probable ones")
    labels: Literal["top", "target", "top+target"] | list[Any] | int | str = _setting(
        "top",
        "classes to explain: the most probable ones, the image's true one, both, or fixed ones, as in [3, cat]",
    )
    kernel_width: float | Literal["auto"] | None = _setting(
        AUTO,
        "width of the proximity kernel; null means 0.75 sqrt(parts); auto is null for tables, else 0.25",
    )
    alpha: float = _setting(1.0, "strength of the ridge penalty")
    kernel: str | None = _setting(
        None, "weights of masks: uniform (Banzhaf), shapley, or lime's exponential proximity kernel if not set"
    )
    distance: str = _setting(
        AUTO,
        "distance from a mask to the whole input: cosine, euclidean ...; auto is euclidean for tables, else cosine",
    )
    feature_selection: str = _setting(
        "auto", "selection of segments: auto, none, highest_weights, forward_selection or lasso_path"
    )
    num_features: int | None = _setting(None, "number of segments to keep; all if not set")
    activation: str | None = _setting(
        AUTO,
        "activation of the outputs: softmax, sigmoid, null; auto is softmax for a network, null for other models",
    )
    mean: list[float] | None = _setting(None, "mean of the model's normalisation, for pixels in 0..1; else its own, if known")
    std: list[float] | None = _setting(None, "standard deviation of the model's normalisation; else its own, if known")
    precision: str = _setting("float32", "precision of the model: float32, bfloat16 or float16")
    batch_size: int | Literal["auto"] = _setting("auto", "masked images in one model batch; auto chooses")
    compile: bool | Literal["auto", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = _setting(
        "auto", "compile the model by torch.compile: true, false, a mode, or auto: only if forwards take ten times as long"
    )
    device: str | None = _setting(None, "cpu, cuda, cuda:1 ...; if not set, the GPU if there is one")
    seed: int = _setting(0, "equal seeds draw equal masks")

    def __post_init__(self) -> None:
        check(
            (self.mean is None) == (self.std is None),
            f"lime.mean and lime.std must be given together; got {self.mean} and {self.std}",
        )


@dataclass(frozen=True)
class TextConfig:
    """Settings for texts: arguments of `gpulime.TextExplainer`, with the same names."""

    hide: str = _setting("drop", "how words are hidden: drop, mask or attention (with a tokenizer), or a word to put there")
    split_expression: str = _setting(r"\W+", "regular expression of what separates words")
    bow: bool = _setting(True, "a word is one part wherever it occurs; if false, each occurrence is a part")
    char_level: bool = _setting(False, "characters are the parts, in place of words")
    max_length: int | None = _setting(None, "the most tokens of a text; by default the limit of tokenizer and model")


@dataclass(frozen=True)
class TableConfig:
    """Settings for tables: arguments of `gpulime.TableExplainer`, with the same names."""

    discretizer: Literal["quartile", "decile"] | None = _setting(
        "quartile", "bins of numeric columns; null draws normal numbers and explains standardised values"
    )
    categorical_features: list[str] = _setting(list, "columns of numbers that are categories; those of text always are")
    missing: Literal["bin", "error"] = _setting("bin", "a missing value is a bin of its own, or an error")
    sample_around: bool = _setting(False, "with discretizer: null, draw around the row instead of around the column's mean")


@dataclass(frozen=True)
class StoreConfig:
    """Limits for rows waiting to be written to disk; the first limit reached writes them."""

    flush_rows: int = _setting(256, "number of waiting rows")
    flush_seconds: float = _setting(60.0, "age of the oldest waiting row in seconds")

    def __post_init__(self) -> None:
        check(self.flush_rows >= 1, f"store.flush_rows must be 1 or more; got {self.flush_rows}")
        check(self.flush_seconds > 0, f"store.flush_seconds must be above 0; got {self.flush_seconds}")


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    lime: LimeConfig = field(default_factory=LimeConfig)
    text: TextConfig = field(default_factory=TextConfig)
    table: TableConfig = field(default_factory=TableConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    out: str = _setting("runs/run", "directory of the run; finished images there are skipped")
    report: bool = _setting(True, "write OUT/report.html at the end")
    max_failures_in_a_row: int | None = _setting(100, "end the run after this many failed images in a row; null never does")

    @property
    def kind(self) -> str:
        """Kind of the inputs: "image", "text" or "row"."""
        return "text" if self.data.text is not None else "row" if self.data.columns is not None else "image"

    def __post_init__(self) -> None:
        most = self.max_failures_in_a_row
        check(most is None or most >= 1, f"max_failures_in_a_row must be 1 or more, or null; got {most}")
        check_out(self.out)


def expanded(path: str | Path) -> Path:
    """Expand ``~`` to the home directory, in YAML files and from Python.

    Raises
    ------
    GpulimeError
        If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise GpulimeError(f"{str(path)!r} names no home directory: {error}") from error


def check_out(out: str) -> None:
    """Refuse a URL, or a name that is not UTF-8, as the directory of a run.

    Raises
    ------
    GpulimeError
        With the URL's scheme. Shards are written atomically by rename, which object stores lack.
    """
    scheme = URL.match(out)
    instead = "write to a local or network path and copy results/ afterwards: shards never change"
    check(out == out.encode("utf-8", "replace").decode(), f"out must be UTF-8; got {out!r}")
    check(scheme is None, f"out must be a directory, not an address of {scheme and scheme[1]}; got {out!r}: {instead}")


SECTIONS: dict[str, Any] = {
    entry.name: entry.default_factory for entry in fields(Config) if is_dataclass(entry.default_factory)
}


def settings() -> Iterator[tuple[str, Field[Any]]]:
    """Each setting's full name (``out``, ``lime.n_samples``) and its field, in the order of the help."""
    for entry in fields(Config):
        if entry.name not in SECTIONS:
            yield entry.name, entry
    for section, kind in SECTIONS.items():
        for entry in fields(kind):
            yield f"{section}.{entry.name}", entry


def default(entry: Field[Any]) -> Any:
    """The default of a setting; a new object if it is mutable."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def flat(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Full name -> value of the settings in a nested mapping (of a YAML file, of run.json).

    Raises
    ------
    GpulimeError
        For an unknown key, with the nearest setting.
    """
    names = [name for name, _ in settings()]
    found = {}
    for key, value in given.items():
        if key not in SECTIONS:
            found[str(key)] = value
        elif isinstance(value, Mapping):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif value is not None:  # a section whose lines are all commented out is None
            example = fields(SECTIONS[key])[0].name
            raise GpulimeError(f"{key} must be a mapping of settings such as '{key}: {{{example}: ...}}'; got {value!r}")
    for name in found:
        if name not in names:  # the nearest of so many takes milliseconds to find
            raise GpulimeError(f"unknown key {name!r}{nearest(name, [*names, *SECTIONS])}")
    return found


def from_dict(given: Mapping[str, Any]) -> Config:
    """The settings of a nested mapping, as `dataclasses.asdict` writes them; missing ones have their default.

    Raises
    ------
    GpulimeError
        For an unknown key and for a value out of its range.
    """
    values = flat(given)
    sections = {
        section: kind(**{n.partition(".")[2]: value for n, value in values.items() if n.startswith(f"{section}.")})
        for section, kind in SECTIONS.items()
    }
    return Config(**sections, **{name: value for name, value in values.items() if "." not in name})


def resolved(config: Config) -> Config:
    """Replace each "auto" that depends on the kind of inputs by its value."""
    values = {name: value for name, value in AUTOMATIC[config.kind].items() if getattr(config.lime, name) == AUTO}
    return replace(config, lime=replace(config.lime, **values))


def check_used(config: Config) -> None:
    """Refuse settings that are set and do not concern the kind of inputs.

    Raises
    ------
    GpulimeError
        With the first such setting.
    """
    for name, entry in settings():
        value = attrgetter(name)(config)
        if value != default(entry) and not _concerns(name, config.kind):
            if config.kind == "image" and name in OF_RECORDS:
                remedy = "set data.text, the column of texts, or data.columns, those of a table"
                raise GpulimeError(f"{name} ({value!r}) concerns texts and tables: {remedy}")
            chosen = "data.text explains texts, data.columns a table, and without either images are explained"
            raise GpulimeError(f"{name} ({value!r}) does not concern {config.kind}s, which this run explains: {chosen}")


def fixed(config: Config) -> dict[str, Any]:
    """The settings that change a row of the results, by their full names; of those for the kind of inputs."""
    names = (name for name, _ in settings() if name not in CHANGES_NO_ROW and _concerns(name, config.kind))
    return {name: attrgetter(name)(config) for name in names}


def _concerns(name: str, kind: str) -> bool:
    section = name.partition(".")[0]
    of_one = section if section in ("text", "table") else None
    if kind == "image":
        return of_one is None and name not in OF_RECORDS
    others = (
        name in OF_IMAGES
        or (kind == "row" and name in OF_MASKS)
        or (kind == "text" and name in ("data.strings", "data.training"))
    )
    return not others and of_one in (None, {"text": "text", "row": "table"}[kind])
