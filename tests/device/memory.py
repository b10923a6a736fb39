"""Memory of the pretend device: who made each block, who reads and writes it, and how much there is."""

from __future__ import annotations

from weakref import WeakValueDictionary

import torch

from tests.device.findings import RACE, REUSE, report, where
from tests.device.streams import HOST, current

TOTAL = 141 * 2**30  # bytes, an H200's


class Block:
    """The memory of a tensor and its views, until the last of them goes.

    Attributes
    ----------
    home : Stream that made it, on which its memory is used again once it is free
    passed : {address: (dtype, dense)} of tensors in it whose address was asked for
    """

    def __init__(self, storage):
        self.storage, self.home = storage, current()
        self.address, self.size = storage.data_ptr(), storage.nbytes()
        self.written, self.read = (self.home.number, self.home.pieces), {}
        self.recorded = set()  # streams
        self.passed = {}
        self.made = where(2)
        MEMORY.takes(self.size)

    def use(self, stream, piece, writes, what):
        """Let a piece of a stream's work read or write; a finding if another stream's may be at it."""
        before = {**self.read, **dict([self.written])} if writes else dict([self.written])
        for other, its in before.items():
            if other != stream.number and not stream.clock.has(other, its):
                action = f"{what} {'writes' if writes else 'reads'} on stream {stream.number}"
                report(RACE, f"{action}, beside stream {other}: {where()}; made at {self.made}")
        if writes:
            self.written, self.read = (stream.number, piece), {}
        else:
            self.read[stream.number] = piece

    def __del__(self):
        MEMORY.now -= self.size
        for stream, piece in {**dict([self.written]), **self.read}.items():
            known = self.home.clock.has(stream, piece) or HOST.clock.has(stream, piece)
            if stream != self.home.number and stream not in self.recorded and not known:
                report(REUSE, f"freed while stream {stream} may be at it: {where()}; made on {self.home.number}: {self.made}")


class Memory:
    """All blocks; ``limit`` bytes of them exist."""

    def __init__(self):
        self.now = self.peak = 0
        self.limit = TOTAL
        self._blocks = WeakValueDictionary()

    def takes(self, size):
        """Count a new block's bytes, or raise as PyTorch's allocator does."""
        if self.now + size > self.limit:
            self.now += size  # which the block gives back
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB.")
        self.now += size
        self.peak = max(self.peak, self.now)

    def block(self, inner):
        """The block that holds a CPU tensor's numbers."""
        storage = inner.untyped_storage()
        found = self._blocks.get(storage.data_ptr()) if storage.nbytes() else None
        if found is None:
            found = Block(storage)
            if found.size:
                self._blocks[found.address] = found
        return found

    def holding(self, address):
        """The block with this address, or None."""
        blocks = list(self._blocks.values())
        return next((block for block in blocks if block.address <= address < block.address + block.size), None)


MEMORY = Memory()
