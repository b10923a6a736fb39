"""Hiding of tokens: dropped, masked, kept from attention, or replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpulime.errors import GpulimeError, check

Hide = str | Callable[[Any], Any]
DROP, MASK, ATTENTION = "drop", "mask", "attention"


def replacement(hide: Hide, tokenizer: Any) -> Callable[[Tensor], Tensor] | None:
    """A function of a text's ids (t,) -> the ids (t,) in place of hidden ones; None if they are not replaced.

    Raises
    ------
    GpulimeError
        If the tokenizer lacks the token, or ``hide`` is no way to hide.
    """
    if callable(hide):
        return lambda ids: _checked(hide(ids.clone()), ids)
    if not isinstance(hide, str):
        raise GpulimeError(f"hide must be 'drop', 'mask', 'attention', a token or a callable; got {hide!r}")
    if hide in (DROP, ATTENTION):
        return None
    number = _number(hide, tokenizer)
    return lambda ids: torch.full_like(ids, number)


def _number(hide: str, tokenizer: Any) -> int:
    """Id of the mask token, or of a given one."""
    name = type(tokenizer).__name__
    if hide == MASK:
        given = tokenizer.mask_token_id
        check(given is not None, f"hide='mask' needs a tokenizer with a mask token; {name} has none: take 'drop' or a token")
        return int(given)
    number = tokenizer.convert_tokens_to_ids(hide)
    known = number is not None and (number != tokenizer.unk_token_id or hide == tokenizer.unk_token)
    known = known and tokenizer.convert_ids_to_tokens(number) == hide
    right = f"hide must be 'drop', 'mask', 'attention', a callable or a token of {name}"
    check(known, f"{right}; {hide!r} is none of these")
    return int(number)


def _checked(given: Any, ids: Tensor) -> Tensor:
    fits = isinstance(given, Tensor) and given.shape == ids.shape and not given.is_floating_point()
    got = f"{tuple(given.shape)} {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
    check(fits, f"hide must return {len(ids)} whole numbers for the {len(ids)} ids of a text; got {got}")
    return given.to(ids)  # type: ignore[no-any-return]


def compose(rows: Tensor, shown: Tensor, others: Tensor | None, drop: bool, pad: int) -> Tensor:
    """Hide tokens of rows.

    Parameters
    ----------
    rows : (b, c, t) integers, ids, attention mask and what else there is of each token
    shown : (b, t) bool
    others : (b, t) of the same dtype, or None
        Ids in place of hidden ones.
    drop : bool
        If there are no others: True moves all that is shown to the front, False keeps the rest from attention.
    pad : int
        Id behind what is shown.

    Returns
    -------
    (b, c, t) of the same dtype
    """
    if others is not None:
        return torch.cat([rows[:, :1].where(shown[:, None], others[:, None]), rows[:, 1:]], 1)
    if not drop:
        return torch.cat([rows[:, :1], rows[:, 1:2] * shown[:, None], rows[:, 2:]], 1)
    t = rows.shape[2]
    shown = shown & (rows[:, 1] == 1)
    place = (shown.long().cumsum(1) - 1).where(shown, t)
    moved = rows.new_zeros(*rows.shape[:2], t + 1)
    moved[:, 0] = pad
    return moved.scatter_(2, place[:, None].expand_as(rows), rows)[..., :t]
