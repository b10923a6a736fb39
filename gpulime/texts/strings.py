"""Functions of strings as models: rows are decoded, and each distinct string is predicted once."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gpulime.engine.functions import read
from gpulime.errors import GpulimeError, check, line_of
from gpulime.texts.batches import Batches
from gpulime.texts.packed import Array, distinct, texts
from gpulime.texts.words import Words

Replace = Callable[[str], str] | str | None  # a hidden word -> what stands in its place; None removes it
# Errors of functions that take a single string.
_WANTS_ONE = re.compile(r"'list' object has no attribute|expected string or bytes-like|must be str, not list")


class Strings:
    """A function of strings as a function of packed rows.

    Parameters
    ----------
    function : callable
        List of b strings -> (b, classes) or (b,) numbers.
    batch_size : int
        The most strings per call; they are sorted by length.
    replace : str or callable, optional
        In place of a hidden word; None removes it.
    name : str
        Name of the function in messages.
    """

    def __init__(
        self, function: Callable[[list[str]], Any], batch_size: int, replace: Replace = None, name: str = "model"
    ) -> None:
        self.function, self.replace, self.name = function, replace, name
        self.batches = Batches(batch_size)

    def __call__(self, rows: Tensor) -> Tensor:
        """Outputs (b, classes) for packed rows (b, bytes) uint8."""
        different, inverse = distinct(rows)
        return self.predicted(list(texts(different)))[torch.from_numpy(inverse)]

    def predicted(self, masked: list[tuple[Words, Array]]) -> Tensor:
        """Outputs (m, classes) for texts and their masks, m in all; no two masks of a text are equal."""
        strings = list(chain.from_iterable(words.strings(masks, self.replacements(words)) for words, masks in masked))
        places: dict[str, int] = {}
        inverse = [places.setdefault(string, len(places)) for string in strings]
        once = list(places)
        lengths = torch.tensor([len(string) for string in once])
        outputs = self.batches(lambda batch: self._outputs([once[i] for i in batch.tolist()]), lengths)
        return outputs[torch.tensor(inverse)]

    def replacements(self, words: Words) -> list[str] | None:
        """Strings in place of a text's words; None if they are removed."""
        if self.replace is None:
            return None
        if isinstance(self.replace, str):
            return [self.replace] * len(words)
        given = [self.replace(word) for word in words.names]
        wrong = [one for one in given if not isinstance(one, str)]
        check(not wrong, lambda: f"hide must return a string for a word; got {type(wrong[0]).__name__}")
        return given

    def _outputs(self, batch: list[str]) -> Tensor:
        try:
            outputs = self.function(batch)
        except (AttributeError, TypeError) as error:
            if not _WANTS_ONE.search(str(error)):
                raise
            right = "it must take a list of strings and return a row of probabilities for each"
            raise GpulimeError(
                f"the {self.name} failed for a list of {len(batch)} strings ({line_of(error)}): {right}"
            ) from error
        return read(outputs, len(batch), self.name)
