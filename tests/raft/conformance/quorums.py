"""Quorum scripts: `committed` and `vote`.

Why: the same questions are asked of a naive second implementation and of the mirrored quorum, and any disagreement is
part of the output.
Not here: the quorums (nokv.raft.quorum).
"""

from collections.abc import Mapping

from nokv.proto.ids import LogIndex, PeerId
from nokv.raft.quorum import (
    EVERYTHING,
    Majority,
    describe_index,
    describe_progress,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)
from tests.raft.conformance.script import Directive, ScriptError

Acked = Mapping[PeerId, LogIndex]


def naive_committed(voters: Majority, acked: Acked) -> LogIndex:
    """By the definition: the highest acked index that at least a majority has."""
    if not voters:
        return EVERYTHING
    needed = len(voters) // 2 + 1
    candidates = [LogIndex(0), *(acked[voter] for voter in voters if voter in acked)]
    return max(
        index for index in candidates if index == 0 or sum(acked.get(voter, 0) >= index for voter in voters) >= needed
    )


def run_quorum(directive: Directive) -> str:
    """One directive."""
    ids = [PeerId(int(value)) for value in directive.values("cfg") or ()]
    outgoing = directive.values("cfgj")
    joint_ids = [] if outgoing in (None, ["zero"]) else [PeerId(int(value)) for value in outgoing or ()]
    incoming, other = frozenset(ids), frozenset(joint_ids)
    given = directive.values("idx" if directive.command == "committed" else "votes") or []
    order = list(dict.fromkeys(ids + joint_ids))
    if len(order) != len(given):
        return _mismatch(order, given)
    known = {peer: value for peer, value in zip(order, given, strict=True) if value != "_"}
    if directive.command == "committed":
        acked = {peer: LogIndex(int(value)) for peer, value in known.items()}
        return _joint_committed(incoming, other, acked) if outgoing else _majority_committed(incoming, acked)
    if directive.command == "vote":
        votes = {peer: {"y": True, "n": False}[value] for peer, value in known.items()}
        return _vote(incoming, other, votes, joint=outgoing is not None)
    raise ScriptError(f"{directive.place}: unknown command")


def _mismatch(voters: list[PeerId], given: list[str]) -> str:
    """In the notation of the published cases: voters as a set, votes as numbers, nothing known as 0."""
    names = " ".join(f"{voter}:{{}}" for voter in sorted(voters))
    values = " ".join({"_": "0", "n": "1", "y": "2"}.get(value, value) for value in given)
    return f"error: mismatched input (explicit or _) for voters map[{names}]: [{values}]"


def _majority_committed(voters: Majority, acked: Acked) -> str:
    index = majority_committed(voters, acked)
    parts = [describe_progress(voters, acked)]
    for other, how in (
        (naive_committed(voters, acked), "via alternative computation"),
        (joint_committed((voters, frozenset()), acked), "via zero-joint quorum"),
        (joint_committed((voters, voters), acked), "via self-joint quorum"),
    ):
        if other != index:
            parts.append(f"{describe_index(other)} <-- {how}\n")
    for peer in sorted(voters):
        own = acked.get(peer, LogIndex(0))
        if index > own > 0:
            # What lies below the committed index may be lower still without any difference.
            for lower in (LogIndex(own - 1), LogIndex(0)):
                changed = majority_committed(voters, {**acked, peer: lower})
                if changed != index:
                    parts.append(f"{describe_index(changed)} <-- overlaying {peer}->{lower}")
    return "".join([*parts, describe_index(index), "\n"])


def _joint_committed(incoming: Majority, outgoing: Majority, acked: Acked) -> str:
    index = joint_committed((incoming, outgoing), acked)
    mirrored = joint_committed((outgoing, incoming), acked)
    parts = [describe_progress(incoming | outgoing, acked)]
    if mirrored != index:
        parts.append(f"{describe_index(mirrored)} <-- via symmetry\n")
    return "".join([*parts, describe_index(index), "\n"])


def _vote(incoming: Majority, outgoing: Majority, votes: Mapping[PeerId, bool], *, joint: bool) -> str:
    if not joint:
        return f"{majority_vote(incoming, votes).value}\n"
    result = joint_vote((incoming, outgoing), votes)
    mirrored = joint_vote((outgoing, incoming), votes)
    remark = "" if mirrored is result else f"{mirrored.value} <-- via symmetry\n"
    return f"{remark}{result.value}\n"
