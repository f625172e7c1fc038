"""One-phase commit: a transaction inside one region commits in one log entry, exactly once.

Why: most writes touch one region; for them locks and a second round trip buy nothing.
Invariants: repeating the request finds the first outcome and does nothing, whatever happened to the keys since; refused
means untouched, except that a *blind* request that was refused for good leaves a rollback mark, because the conflict
that refused it would not by itself refuse its duplicate.
Not here: how the leader chooses commit_ts and ts_limit (nokv.workers; the argument is in the package's docstring).
"""

from collections.abc import Sequence

from nokv.mvcc.prewrite import KIND_OF, NEEDS_ABSENCE
from nokv.mvcc.records import (
    NO_TS,
    SHORT_VALUE_BYTES_MAX,
    CommitRecord,
    Kind,
    encode_commit,
    encode_put,
    encode_raised_trace,
    encode_value_trace,
)
from nokv.mvcc.rollback import mark
from nokv.mvcc.site import Site, locked, look
from nokv.proto.errors import AlreadyExists, KeyIsLocked, SnapshotTooOld, WriteConflict
from nokv.proto.ids import Ts
from nokv.proto.kv import Mutation, MutationOp, OnePhaseReply, OnePhaseRequest
from nokv.storage.engine import ColumnFamily, Engine
from nokv.storage.keys import encode_ts

OnePhaseRefusal = KeyIsLocked | WriteConflict | AlreadyExists | SnapshotTooOld


def one_phase(
    engine: Engine, request: OnePhaseRequest, *, commit_ts: Ts, ts_limit: Ts, safe_point: Ts = NO_TS
) -> OnePhaseReply | OnePhaseRefusal:
    """Commit the mutations at `commit_ts`, or for a blind request just above what it overwrites, up to `ts_limit`.

    KeyIsLocked leaves the question open: the same request may succeed once the lock is gone. That includes a lock of
    the transaction itself, which must then end in two phases, since keys elsewhere may depend on it. A caller that
    gives up after KeyIsLocked rolls the keys back first.

    REQUIRES: validate(request) found nothing; commit_ts > start_ts and > every timestamp this region has read at.
    """
    assert commit_ts > request.start_ts
    sites = [look(engine, mutation.key, request.start_ts) for mutation in request.mutations]
    for site in sites:
        if site.fate:
            return OnePhaseReply(site.fate)
    if request.start_ts < safe_point:
        # Before any conflict: a conflict says "nothing was written", and the record that disproves it may be collected.
        return SnapshotTooOld(request.start_ts, safe_point)
    for site in sites:
        if site.lock is not None:
            return locked(site.key, site.lock)
    effective_ts = commit_ts
    if request.blind:
        effective_ts = raised_above(sites, commit_ts)
    too_high = effective_ts > max(commit_ts, ts_limit)
    refusal = _conflict(sites, request.blind, too_high) or _existence(engine, request.mutations, sites)
    if refusal is not None:
        if request.blind and sites[0].fate is None:
            mark(engine, sites[0].encoded, request.start_ts)
        return refusal
    for mutation, site in zip(request.mutations, sites, strict=True):
        if mutation.op is not MutationOp.CHECK_NOT_EXISTS:
            kind = KIND_OF[mutation.op]
            write(engine, site, kind, mutation.value if kind is Kind.PUT else None, effective_ts)
    return OnePhaseReply(effective_ts)


def raised_above(sites: Sequence[Site], commit_ts: Ts) -> Ts:
    """The least timestamp from `commit_ts` on that is above every commit at the sites."""
    return Ts(max(commit_ts, max(site.newest_ts for site in sites) + 1))


def write(engine: Engine, site: Site, kind: Kind, value: bytes | None, commit_ts: Ts) -> None:
    """Put a commit record on top of the site, with its long value and the pointer that a raised commit needs.

    REQUIRES: the site is as it was looked at, not locked, and its newest commit is below `commit_ts`.
    """
    assert site.newest_ts < commit_ts
    start_ts = site.start_ts
    raised = site.newest_ts > start_ts
    long_value: bytes | None = None
    if kind is Kind.PUT:
        assert value is not None
        if len(value) > SHORT_VALUE_BYTES_MAX:
            value, long_value = None, value
        record = encode_put(start_ts, value, raised=raised)
    else:
        last_change = site.last_change if kind is Kind.LOCK else NO_TS
        record = encode_commit(CommitRecord(kind, start_ts, None, last_change, raised))
    engine.put(ColumnFamily.WRITE, site.encoded + encode_ts(commit_ts), record)
    if raised:
        trace = encode_raised_trace(commit_ts, long_value)
        engine.put(ColumnFamily.DEFAULT, site.encoded + encode_ts(start_ts), trace)
    elif long_value is not None:
        engine.put(ColumnFamily.DEFAULT, site.encoded + encode_ts(start_ts), encode_value_trace(long_value))


def _conflict(sites: Sequence[Site], blind: bool, too_high: bool) -> WriteConflict | None:
    """The first conflict. For a blind request newer commits are none, unless it cannot be raised above them."""
    for site in sites:
        conflict = site.conflict()
        if conflict is not None and (not blind or too_high or site.fate is not None):
            return conflict
    return None


def _existence(engine: Engine, mutations: Sequence[Mutation], sites: Sequence[Site]) -> AlreadyExists | None:
    """The first key that has a value and must have none."""
    for mutation, site in zip(mutations, sites, strict=True):
        if mutation.op in NEEDS_ABSENCE and site.has_value(engine):
            return AlreadyExists(site.key)
    return None
