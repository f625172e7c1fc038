"""Ids of regions and peers: each is given out once, for ever.

Why: a peer id that came back would let messages to a removed replica reach its successor.
Invariants: `next_id` only rises; an id below it is never given out; ids that are lost on the way stay lost.
Not here: making it durable and replicated (cluster.py).
"""

from typing import Final

from nokv.proto.control import AllocIdsReply
from nokv.proto.errors import InvalidArgument, LimitExceeded

FIRST_ID: Final = 1

IDS_COUNT_MAX: Final = 65_536
"""Ids of one allocation. Replicas check it when they apply, so it is a constant and no setting: all must agree."""

ID_MAX: Final = (1 << 63) - 1
"""Ids are positive wherever they are read as signed integers. At a million a second they last for 290,000 years."""


class IdAllocator:
    """The next free id and the rules for moving it."""

    def __init__(self, next_id: int = FIRST_ID) -> None:
        assert FIRST_ID <= next_id <= ID_MAX
        self._next_id = next_id

    @property
    def next_id(self) -> int:
        """The least id that was never given out and is not known to be in use."""
        return self._next_id

    @staticmethod
    def refusal(count: int) -> InvalidArgument | LimitExceeded | None:
        """Why a request for `count` ids is refused, before it is proposed and when it is applied; None if it is not."""
        if count < 1:
            return InvalidArgument("count", "must be at least 1")
        if count > IDS_COUNT_MAX:
            return LimitExceeded("ids_count_max", IDS_COUNT_MAX, count)
        return None

    def take(self, count: int) -> AllocIdsReply:
        """Ids that nobody else gets. Requires: `refusal(count)` is None."""
        assert 1 <= count <= IDS_COUNT_MAX
        assert self._next_id + count <= ID_MAX
        first = self._next_id
        self._next_id += count
        return AllocIdsReply(first, count)

    def reserve(self, used_id: int) -> bool:
        """Never give out `used_id`, which is in use, or anything below it; returns whether that changed anything."""
        assert used_id < ID_MAX
        if used_id < self._next_id:
            return False
        self._next_id = used_id + 1
        return True
