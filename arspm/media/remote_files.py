"""A file on a web server, read in the ranges that are needed."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable

BLOCK_BYTES = 1 << 17
MAX_BLOCKS_AT_ONCE = 8  # of one request, when a file is read on and on
MAX_KEPT_BLOCKS = 256  # 32 MiB: an index that is read for every clip of a video is requested once


class RangeFile(io.RawIOBase):
    """A seekable file whose bytes come from `fetch(first, last)`, which returns them with both ends.

    What `fetch` raises is kept in `error`, and the file then seems to end: FFmpeg calls `read`, and would print an
    exception and drop it.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, beginning: bytes = b"") -> None:
        self.size = size
        self.error: Exception | None = None
        self._fetch, self._position = fetch, 0
        self._next_block, self._at_once = 0, 1  # the block after the last request's, and how many that requested
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._keep(0, beginning)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise OSError(22, "a position before the start of the file")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, all that are left if negative; fewer only at the end of the file."""
        left = max(0, self.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces = list[bytes]()
        while wanted:
            number, offset = divmod(self._position, BLOCK_BYTES)
            piece = self._block(number)[offset : offset + wanted]
            if not piece:
                self.error = self.error or OSError(5, "the server sent less than it announced")
                return b"".join(pieces)
            pieces.append(piece)
            self._position += len(piece)
            wanted -= len(piece)
        return b"".join(pieces)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks and self.error is None:
            # Reading on and on, request more at once; after a seek, little.
            self._at_once = min(2 * self._at_once, MAX_BLOCKS_AT_ONCE) if number == self._next_block else 1
            self._next_block = number + self._at_once
            try:
                last = min(self._next_block * BLOCK_BYTES, self.size) - 1
                self._keep(number, self._fetch(number * BLOCK_BYTES, last))
            except Exception as error:
                self.error = error
        if number in self._blocks:
            self._blocks.move_to_end(number)
        return self._blocks.get(number, b"")

    def _keep(self, number: int, data: bytes) -> None:
        """Keep the blocks of data that begins at block `number`. An incomplete one is kept only at the file's end."""
        for begin in range(0, len(data), BLOCK_BYTES):
            block, index = data[begin : begin + BLOCK_BYTES], number + begin // BLOCK_BYTES
            if len(block) == min(BLOCK_BYTES, self.size - index * BLOCK_BYTES):
                self._blocks[index] = block
        while len(self._blocks) > MAX_KEPT_BLOCKS:
            self._blocks.popitem(last=False)
