"""The topology file: what is accepted, what it becomes, and a reason for each refusal (N35 and ours)."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nokv.proto.control import StoreInfo
from nokv.proto.ids import ClusterId, StoreId
from nokv.proto.region import PeerRole
from nokv.topology import Topology, TopologyError, encode, key_text, parse, parse_key, presplit


def document(**changes: Any) -> dict[str, Any]:
    """Three stores, two regions that tile; `changes` replace top-level fields."""
    stores = [
        {"id": i, "client": f"127.0.0.1:{6658 + 10 * i}", "peer": f"127.0.0.1:{6659 + 10 * i}"} for i in (1, 2, 3)
    ]
    regions = [
        {"id": 1, "start": "", "end": "m", "peers": [{"store": i, "peer": 10 + i} for i in (1, 2, 3)], "leader": 1},
        {"id": 2, "start": "m", "end": "", "peers": [{"store": i, "peer": 20 + i} for i in (1, 2, 3)]},
    ]
    return {"cluster_id": 7, "stores": stores, "regions": regions} | changes


def broken(path: str, value: Any) -> dict[str, Any]:
    """The good document with one place changed; `path` as in "regions.0.peers.1.store"."""
    whole = document()
    place: Any = whole
    *parents, last = path.split(".")
    for name in parents:
        place = place[int(name)] if name.isdigit() else place[name]
    place[int(last) if last.isdigit() else last] = value
    return whole


def test_a_good_file_becomes_structs_in_key_order() -> None:
    swapped = document()
    swapped["regions"].reverse()
    topology = parse(json.dumps(swapped))
    assert [region.id for region in topology.regions] == [1, 2]
    assert topology.leaders == {1: 1}
    assert topology.regions[0].end == topology.regions[1].start == b"m"
    assert topology.store(StoreId(2)) == StoreInfo(StoreId(2), "127.0.0.1:6678", "127.0.0.1:6679")
    assert topology.store(StoreId(9)) is None
    assert topology.next_id() == 24


REFUSALS = [
    ("stores.1.id", 0, "stores[1].id", "above 0"),
    ("stores.1.id", 1, "stores[1].id", "already"),
    ("stores.1.client", "127.0.0.1", "stores[1].client", "host:port"),
    ("stores.1.client", "127.0.0.1:99999", "stores[1].client", "65535"),
    ("stores.1.peer", "127.0.0.1:6668", "stores[1].peer", "already stores[0].client"),
    ("stores.1.server_key", "short", "stores[1].server_key", "40"),
    ("stores", [], "stores", "at least one"),
    ("cluster_id", 0, "cluster_id", "above 0"),
    ("cluster_id", "x", "cluster_id", "int"),
    ("regions", [], "regions", "at least one"),
    ("regions.1.id", 0, "regions[1].id", "above 0"),
    ("regions.1.id", 1, "regions[1].id", "already"),
    ("regions.1.start", "n", "regions[1].start", "no region between 'm' and 'n'"),
    ("regions.1.start", "l", "regions[1].start", "overlaps"),
    ("regions.0.start", "a", "regions[0].start", "below 'a'"),
    ("regions.1.end", "z", "regions[1].end", "from 'z' on"),
    ("regions.1.end", "a", "regions[1].end", "empty"),
    ("regions.1.start", "hex:6", "regions[1].start", "hex"),
    ("regions.1.start", "k" * 401, "regions[1].start", "400"),
    ("regions.1.peers.0.store", 0, "regions[1].peers[0]", "above 0"),
    ("regions.1.peers.0.peer", 0, "regions[1].peers[0]", "above 0"),
    ("regions.1.peers.0.peer", 11, "regions[1].peers[0].peer", "already regions[0].peers[0]"),
    ("regions.1.peers.0.store", 9, "regions[1].peers[0].store", "not listed"),
    ("regions.1.peers.0.store", 2, "regions[1].peers[1].store", "already"),
    ("regions.1.peers.0.role", "boss", "regions[1].peers[0].role", "neither"),
    ("regions.1.peers", [], "regions[1].peers", "at least one"),
    ("regions.1.peers", [{"store": 1, "peer": 5, "role": "learner"}], "regions[1].peers", "no voter"),
    ("regions.0.leader", 9, "regions[0].leader", "not listed"),
    ("regions.0.epoch", {"version": 0, "conf_ver": 1}, "regions[0].epoch", "above 0"),
    ("regions.0.colour", "red", "regions[0]", "unknown field"),
    ("presplit", {"regions": 4}, "presplit", "not both"),
]


@pytest.mark.parametrize(("path", "value", "where", "reason"), REFUSALS)
def test_each_violation_is_refused_with_its_place_and_reason(path: str, value: Any, where: str, reason: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(json.dumps(broken(path, value)))
    assert caught.value.where == where
    assert reason in caught.value.reason


def test_a_learner_cannot_be_the_first_leader() -> None:
    changed = broken("regions.0.peers.0.role", "learner")
    with pytest.raises(TopologyError, match="no voter of region 1"):
        parse(json.dumps(changed))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"cluster_id": 1}', "cluster_id = 1"])
def test_what_is_no_topology_at_all_is_refused(text: str) -> None:
    with pytest.raises(TopologyError):
        parse(text)


def test_regions_or_presplit_must_be_given() -> None:
    neither = document()
    del neither["regions"]
    with pytest.raises(TopologyError, match="regions or presplit"):
        parse(json.dumps(neither))


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [({"regions": 0}, "must be 1"), ({"regions": 9_999_999}, "must be 1"), ({"regions": 2, "replicas": 4}, "as many")],
)
def test_a_presplit_that_cannot_be_is_refused(wanted: dict[str, int], reason: str) -> None:
    changed = document(presplit=wanted)
    del changed["regions"]
    with pytest.raises(TopologyError, match=reason):
        parse(json.dumps(changed))


def stores(count: int) -> tuple[StoreInfo, ...]:
    return tuple(StoreInfo(StoreId(i), f"h{i}:1", f"h{i}:2") for i in range(1, count + 1))


@given(regions=st.integers(1, 40), count=st.integers(1, 6), replicas=st.integers(1, 5))
def test_presplit_tiles_spreads_and_survives_the_file(regions: int, count: int, replicas: int) -> None:
    topology = presplit(ClusterId(5), stores(count), regions=regions, replicas=replicas)
    assert parse(encode(topology)) == topology
    assert len(topology.regions) == regions
    held = [sum(region.peer_on(StoreId(i)) is not None for region in topology.regions) for i in range(1, count + 1)]
    led = [list(topology.leaders.values()).count(StoreId(i)) for i in range(1, count + 1)]
    assert max(held) - min(held) <= min(replicas, count)
    assert max(led) - min(led) <= 1


def test_presplit_in_the_file_means_the_same_as_in_code() -> None:
    changed = document(presplit={"regions": 4})
    del changed["regions"]
    from_file = parse(json.dumps(changed))
    assert from_file == presplit(ClusterId(7), from_file.stores, regions=4)


@given(st.binary(max_size=40))
def test_keys_survive_their_text(key: bytes) -> None:
    assert parse_key("k", key_text(key)) == key


def test_encode_writes_learners_keys_and_optional_addresses() -> None:
    changed = broken("regions.1.peers.2.role", "learner")
    changed["stores"][0] |= {"http": "127.0.0.1:7000", "server_key": "k" * 40}
    topology = parse(json.dumps(changed))
    again = parse(encode(topology))
    assert again == topology
    assert again.regions[1].peers[2].role is PeerRole.LEARNER
    assert again.stores[0].http_addr == "127.0.0.1:7000"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["cluster_id", "stores", "regions", "presplit", "id", "start", "end", "peers", "store", "x"]
                ),
                inner,
            )
        ),
    )
)
def test_any_json_is_a_topology_or_a_typed_refusal(value: Any) -> None:
    with suppress(TopologyError):
        assert isinstance(parse(json.dumps(value)), Topology)
