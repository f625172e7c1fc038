"""The client: what a program calls.

Why: one object with short methods over the parts that do the work; each method checks its arguments, opens the call's
budget and hands over.
Invariants: nothing is sent before the arguments are checked; every call has a deadline; keys and values are bytes.
Not here: routing and retries (caller.py), which requests a read or write needs (reads.py, writes.py).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from types import TracebackType
from typing import NoReturn, TypeVar, overload

from nokv.client._async.caller import Caller
from nokv.client._async.cluster import AsyncCluster
from nokv.client._async.reads import Reads
from nokv.client._async.resolver import Resolver
from nokv.client._async.scan import AsyncScan
from nokv.client._async.snapshot import AsyncSnapshot
from nokv.client._async.writes import Writes
from nokv.client.async_net import AsyncNet
from nokv.client.async_oracle import AsyncOracle
from nokv.client.config import ClientConfig, config_of
from nokv.client.connection import Dial  # async only
from nokv.client.deadline import deadline_in_force
from nokv.client.endpoint import Endpoint
from nokv.client.errors import ProtocolError
from nokv.client.hooks import Hooks
from nokv.client.key_range import range_of
from nokv.client.limits import BytesLike, checked_batch, checked_key, checked_page, checked_value
from nokv.client.link import Session
from nokv.client.net import NetSettings
from nokv.client.op import Op
from nokv.client.region_cache import RegionCache
from nokv.client.results import CasResult
from nokv.client.topology_file import learn_topology
from nokv.proto.ids import LATEST
from nokv.proto.kv import AtomicOp, Mutation, MutationOp

D = TypeVar("D")


class AsyncClient:
    """A client for one event loop, that of its first call; connects when it is first needed.

    Args:
        url: "nokv://host:port,host2?timeout=2s" or a ClientConfig; None takes $NOKV_URL, else nokv://127.0.0.1:6658.
            See nokv.client.config for all options; arguments given here win over those in the URL.
        timeout: seconds a call may take, retries included.
        connect_timeout: seconds within which a first node must answer.
        max_inflight: requests under way at once; more wait inside their deadline.
        read: "leader", the only way of reading so far.
        client_name: shown in the nodes' lists.
        cluster_id: refuse nodes of other clusters.
        topology: path of the static topology file, instead of a URL.
        server_key, key_file, curve: CURVE; see the URL options of the same purpose.
        hooks: objects told about calls, retries and errors.
        dial: another way to open connections than ZeroMQ over TCP; for simulators.  # async only
        random: source of all jitter; a seeded one makes runs repeatable.

    Raises:
        UsageError: an argument is wrong.
    """

    def __init__(
        self,
        url: str | ClientConfig | None = None,
        *,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        max_inflight: int | None = None,
        read: str | None = None,
        client_name: str | None = None,
        cluster_id: int | None = None,
        topology: str | None = None,
        server_key: str | None = None,
        key_file: str | None = None,
        curve: bool | None = None,
        hooks: Sequence[Hooks] = (),
        dial: Dial | None = None,  # async only
        random: Random | None = None,
    ) -> None:
        given = {
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "max_inflight": max_inflight,
            "read": read,
            "client_name": client_name,
            "cluster_id": cluster_id,
            "topology": topology,
            "server_key": server_key,
            "key_file": key_file,
            "curve": curve,
        }
        # Constant
        self.config = config_of(url, given)
        self._timeout_s = self.config.timeout
        self._hooks = tuple(hooks)
        self._random = random if random is not None else Random()

        # The parts
        self._session = Session(client_name=self.config.client_name, cluster_id=self.config.cluster_id)
        self._cache = RegionCache(Endpoint(seed, self.config.server_key) for seed in self.config.seeds)
        if self.config.topology:
            learn_topology(self.config.topology, self._cache, self._session)
        self._net = AsyncNet(
            NetSettings.of(self.config, self._random),
            self._session,
            dial,  # async only
        )
        self._caller = Caller(self._net, self._cache, connect_timeout_s=self.config.connect_timeout)
        self._oracle = AsyncOracle(self._net, self._caller)
        self._caller.resolver = Resolver(self._net, self._caller, self._cache, self._oracle)
        self._reads = Reads(self._net, self._caller, self._cache, self._session)
        self._writes = Writes(self._caller, self._cache, self._oracle)
        self.cluster = AsyncCluster(self._begin, self._net, self._caller)

    # ---- life -------------------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Reach a node and learn the routes now, instead of with the first call.

        Raises:
            ConnectError: no node answered within connect_timeout. AuthError: our key or the node's is not accepted.
            ProtocolError: another protocol version or another cluster.
        """
        with self._begin("connect") as op:
            if self._cache.knows_stores:
                await self._caller.directory(op)
            else:
                await self._caller.connect(op)

    async def close(self, timeout: float = 2.0) -> None:
        """Let calls under way finish for up to `timeout` seconds, then end the rest. Closing twice is fine."""
        await self._net.close(timeout)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        net = getattr(self, "_net", None)  # missing if __init__ raised
        if net is not None and net.is_open:
            warnings.warn(f"{type(self).__name__} was not closed", ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a client does not pickle: pass client.config and connect again there")

    # ---- reads ------------------------------------------------------------------------------------------------------

    @overload
    async def get(self, key: BytesLike) -> bytes | None: ...
    @overload
    async def get(self, key: BytesLike, default: D) -> bytes | D: ...
    async def get(self, key: BytesLike, default: D | None = None) -> bytes | D | None:
        """The newest committed value of a key, `default` if it has none. Linearizable.

        Raises:
            NokvError.
        """
        key = checked_key(key, self._session.limits)
        with self._begin("get") as op:
            value = await self._reads.get(op, key, LATEST)
        return default if value is None else value

    async def exists(self, key: BytesLike) -> bool:
        """Whether a key has a value. Linearizable.

        Raises:
            NokvError.
        """
        key = checked_key(key, self._session.limits)
        with self._begin("exists") as op:
            return await self._reads.get(op, key, LATEST) is not None

    async def get_many(self, keys: Iterable[BytesLike]) -> dict[bytes, bytes]:
        """Values by key, all from one snapshot, in the order asked for; keys without a value are left out.

        Raises:
            NokvError.
        """
        distinct = list(dict.fromkeys(checked_key(key, self._session.limits) for key in keys))
        with self._begin("get_many") as op:
            ts = await self._oracle.fresh(op)
            return await self._reads.get_many(op, distinct, ts)

    def scan(
        self,
        start: BytesLike = b"",
        end: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        page: int = 1000,
    ) -> AsyncScan:
        """Pairs of `start <= key < end`, or all with `prefix`, in key order (`reverse`: from the high end).

        Lazy: pages of `page` pairs are fetched as they are needed, each within a budget of its own, and all of them
        from the snapshot taken with the first. The iterator belongs to one task.

        Raises:
            UsageError: the range or a limit makes no sense. While iterating: NokvError.
        """
        return AsyncScan(
            self._begin,
            self._reads,
            self._oracle,
            range_of(start, end, prefix, self._session.limits),
            ts=None,
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
            page=checked_page(page, limit, self._session.limits),
        )

    def snapshot(self, at: int | None = None) -> AsyncSnapshot:
        """A read-only view at timestamp `at` (None: now), for a `with` block.

        Raises:
            UsageError: `at` is no timestamp.
        """
        return AsyncSnapshot(self._begin, self._reads, self._oracle, self._session, at)

    async def now(self) -> int:
        """A fresh timestamp of the oracle: everything committed before this call is visible at it.

        Raises:
            NokvError.
        """
        with self._begin("now") as op:
            return await self._oracle.fresh(op)

    # ---- writes -----------------------------------------------------------------------------------------------------

    async def put(self, key: BytesLike, value: BytesLike) -> None:
        """Set a key. Durable on a majority when this returns; applied at most once whatever was retried.

        Raises:
            NokvError: `outcome` says whether it may have been applied all the same.
        """
        key = checked_key(key, self._session.limits)
        value = checked_value(value, self._session.limits)
        with self._begin("put") as op:
            await self._writes.one_phase(op, (Mutation(MutationOp.PUT, key, value),))

    async def delete(self, key: BytesLike) -> None:
        """Remove a key's value; no error if it has none.

        Raises:
            NokvError: as for `put`.
        """
        key = checked_key(key, self._session.limits)
        with self._begin("delete") as op:
            await self._writes.one_phase(op, (Mutation(MutationOp.DELETE, key),))

    async def put_many(self, pairs: Mapping[bytes, BytesLike] | Iterable[tuple[BytesLike, BytesLike]]) -> None:
        """Set keys of one region together, all or nothing. Of a key given twice the last value counts.

        Raises:
            CrossRegionError: the keys lie in several regions. LimitError: too many, or too much.
            NokvError: as for `put`.
        """
        limits = self._session.limits
        given = pairs.items() if isinstance(pairs, Mapping) else pairs
        checked = {checked_key(key, limits): checked_value(value, limits) for key, value in given}
        checked_batch(checked.items(), len(checked), limits)
        if checked:
            with self._begin("put_many") as op:
                puts = [Mutation(MutationOp.PUT, key, value) for key, value in checked.items()]
                await self._writes.one_phase(op, puts)

    async def delete_many(self, keys: Iterable[BytesLike]) -> None:
        """Remove the values of keys of one region together, all or nothing.

        Raises:
            CrossRegionError: the keys lie in several regions. LimitError: too many. NokvError: as for `put`.
        """
        limits = self._session.limits
        distinct = dict.fromkeys((checked_key(key, limits) for key in keys), b"")
        checked_batch(distinct.items(), len(distinct), limits)
        if distinct:
            with self._begin("delete_many") as op:
                await self._writes.one_phase(op, [Mutation(MutationOp.DELETE, key) for key in distinct])

    # ---- operations evaluated by the store --------------------------------------------------------------------------

    async def cas(self, key: BytesLike, expect: BytesLike | None, new: BytesLike | None) -> CasResult:
        """Set the key to `new` (None: delete it) if its value is `expect` (None: if it has none).

        Raises:
            NokvError: as for `put`.
        """
        limits = self._session.limits
        key = checked_key(key, limits)
        expected = None if expect is None else checked_value(expect, limits)
        value = None if new is None else checked_value(new, limits)
        with self._begin("cas") as op:
            reply = await self._writes.atomic(op, AtomicOp.COMPARE_AND_SET, key, value, expected)
        return CasResult(reply.swapped, reply.current)

    async def incr(self, key: BytesLike, by: int = 1) -> int:
        """Add to a key that holds a decimal integer of 64 bits (no value counts as 0); the sum.

        Raises:
            WrongTypeError: the value is no such integer, or the sum is none. NokvError: as for `put`.
        """
        return await self._number("incr", AtomicOp.ADD, key, by)

    async def lower(self, key: BytesLike, to: int) -> int:
        """Set an integer key to `to` if that is less than it holds, or if it has no value; what it holds then.

        Raises:
            WrongTypeError: the value is no integer. NokvError: as for `put`.
        """
        return await self._number("lower", AtomicOp.MIN, key, to)

    async def lift(self, key: BytesLike, to: int) -> int:
        """Set an integer key to `to` if that is more than it holds, or if it has no value; what it holds then.

        Raises:
            WrongTypeError: the value is no integer. NokvError: as for `put`.
        """
        return await self._number("lift", AtomicOp.MAX, key, to)

    async def append(self, key: BytesLike, suffix: BytesLike) -> int:
        """Append bytes to a key's value (no value counts as b""); the new length in bytes.

        Raises:
            LimitError: the value would be too long. NokvError: as for `put`.
        """
        key = checked_key(key, self._session.limits)
        suffix = checked_value(suffix, self._session.limits)
        with self._begin("append") as op:
            reply = await self._writes.atomic(op, AtomicOp.APPEND, key, suffix)
        return len(reply.current or b"")

    async def _number(self, name: str, operation: AtomicOp, key: BytesLike, operand: int) -> int:
        key = checked_key(key, self._session.limits)
        with self._begin(name) as op:
            reply = await self._writes.atomic(op, operation, key, b"%d" % operand)
            if reply.current is None:
                raise op.failed(ProtocolError("a number was expected in the reply"))
            return int(reply.current)

    # ---- budgets ----------------------------------------------------------------------------------------------------

    def _begin(self, name: str) -> Op:
        """The budget of a call that starts now.

        Raises:
            UsageError: the client is closed, forked, or used by another event loop.
        """
        net = self._net
        net.check()
        now = net.now()
        deadline = min(now + self._timeout_s, deadline_in_force())
        return Op(name, now=now, deadline=deadline, random=self._random, hooks=self._hooks, census=net)
