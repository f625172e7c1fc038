"""URLs, arguments and the environment become one checked configuration."""

import pickle
from typing import Any

import pytest

import nokv
from nokv.client.config import ClientConfig, config_of, parse_url

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("nokv://h", {"seeds": ("h:6658",)}),
        ("nokv://h:1,i,j:3/", {"seeds": ("h:1", "i:6658", "j:3")}),
        ("nokv://[::1]:7,[fe80::1]", {"seeds": ("[::1]:7", "[fe80::1]:6658")}),
        ("nokv://h?timeout=250ms&connect_timeout=3s", {"seeds": ("h:6658",), "timeout": 0.25, "connect_timeout": 3.0}),
        ("nokv://h?timeout=1.5&max_inflight=9", {"seeds": ("h:6658",), "timeout": 1.5, "max_inflight": 9}),
        ("nokv://h?read=leader&client_name=a%20b", {"seeds": ("h:6658",), "read": "leader", "client_name": "a b"}),
        ("nokv://h?cluster_id=5", {"seeds": ("h:6658",), "cluster_id": 5}),
        (
            "nokv+curve://h?key=/k&server_key=" + KEY.replace("%", "%25"),
            {"seeds": ("h:6658",), "curve": True, "server_key": KEY, "key_file": "/k"},
        ),
    ],
)
def test_urls(url: str, fields: dict[str, object]) -> None:
    assert parse_url(url) == fields
    assert ClientConfig(**fields) == config_of(url, {}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "h:6658",
        "http://h",
        "nokv://",
        "nokv://:80",
        "nokv://h:0",
        "nokv://h:65536",
        "nokv://h:x",
        "nokv://a:b:c",
        "nokv://[::1",
        "nokv://[::1]x",
        "nokv://h/namespace",
        "nokv://h?timeot=1s",
        "nokv://h?timeout=soon",
        "nokv://h?timeout=nan",
        "nokv://h?timeout=0",
        "nokv://h?timeout=-1s",
        "nokv://h?max_inflight=0",
        "nokv://h?max_inflight=1.5",
        "nokv://h?read=follower",
        "nokv://h?server_key=" + "x" * 40,
        "nokv+curve://h",
        "nokv+curve://h?server_key=short",
    ],
)
def test_bad_urls_are_usage_errors(url: str) -> None:
    with pytest.raises(nokv.UsageError):
        config_of(url, {}, {})


def test_sources_by_rank() -> None:
    environ = {"NOKV_URL": "nokv://env?timeout=9s"}
    assert config_of(None, {}, {}).seeds == ("127.0.0.1:6658",)
    assert config_of(None, {}, environ).seeds == ("env:6658",)
    assert config_of("nokv://given", {}, environ) == ClientConfig(seeds=("given:6658",))
    assert config_of(None, {"timeout": 1.0, "read": None}, environ).timeout == 1.0
    assert config_of(None, {"topology": "/t"}, {}).seeds == ()


def test_configuration_pickles_and_makes_an_equal_client() -> None:
    with nokv.Client("nokv://h?timeout=3s", client_name="me") as db:
        config = pickle.loads(pickle.dumps(db.config))
        assert config == db.config
    with nokv.Client(config, timeout=1.0) as hasty:
        assert (hasty.config.timeout, hasty.config.client_name) == (1.0, "me")
    with pytest.raises(nokv.UsageError):
        nokv.Client(config, timeout=-1.0)
    with nokv.Client(config) as twin:
        assert twin.config == config
        assert twin.config.client_name == "me"


@pytest.mark.parametrize("kind", [nokv.Client, nokv.AsyncClient])
def test_clients_do_not_pickle(kind: Any) -> None:
    with pytest.raises(TypeError, match="config"):
        pickle.dumps(kind("nokv://h"))
