"""Key files: made private, read strictly, never overwritten, never shown."""

import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85 as reference

from nokv.router import z85
from nokv.router.auth import NEVER, Allowed
from nokv.router.curve import (
    CLIENTS_ALLOW,
    NODE_KEY,
    PEERS_ALLOW,
    KeyFileError,
    allow,
    allow_stamp,
    make_key_file,
    make_node_dir,
    new_pair,
    node_keys,
    read_allow_file,
    read_key_file,
)


@given(st.binary(max_size=64).filter(lambda data: len(data) % 4 == 0))
def test_z85_is_that_of_the_rfc(data: bytes) -> None:
    assert z85.encode(data) == reference.encode(data)
    assert z85.decode(z85.encode(data)) == data


@pytest.mark.parametrize("text", [b"1234", b"123 5", b"%nSc1", b"#####", b"12\xff45"])
def test_z85_refuses_what_is_none(text: bytes) -> None:
    with pytest.raises(ValueError):
        z85.decode(text)


def test_a_nodes_folder_is_private_and_complete(tmp_path: Path) -> None:
    folder = tmp_path / "curve"
    umask = os.umask(0)
    try:
        pair = make_node_dir(folder)
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        (NODE_KEY, 0o600),
        (CLIENTS_ALLOW, 0o600),
        (PEERS_ALLOW, 0o600),
    }
    assert node_keys(str(folder)) == pair and zmq.curve_public(pair.secret) == pair.public
    assert read_allow_file(folder / CLIENTS_ALLOW) == read_allow_file(folder / PEERS_ALLOW) == ()
    assert node_keys("") is None


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    pair = make_node_dir(tmp_path / "curve")
    allow(tmp_path / "curve" / CLIENTS_ALLOW, pair.public.decode())
    with pytest.raises(KeyFileError, match="never overwritten"):
        make_node_dir(tmp_path / "curve")
    assert node_keys(str(tmp_path / "curve")) == pair
    with pytest.raises(KeyFileError):
        make_key_file(tmp_path / "curve" / NODE_KEY)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o610])
def test_a_secret_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    make_key_file(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 0600"):
        read_key_file(tmp_path / "k")


def test_a_list_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list"
    allow(path, new_pair().public.decode())
    path.chmod(0o644)
    assert len(read_allow_file(path)) == 1
    path.chmod(0o664)
    with pytest.raises(KeyFileError, match="chmod 0644"):
        read_allow_file(path)


Damage = Callable[[str, str, str], str]
"""From the file's lines (comment, public, secret) to its new text."""


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda head, public, secret: f"{public}\nsekret {secret[7:]}", "expected"),
        (lambda head, public, secret: f"{public}\n{public}\n{secret}", "expected"),
        (lambda head, public, secret: public, "no secret key"),
        (lambda head, public, secret: secret, "no public key"),
        (lambda head, public, secret: head, "no secret key"),
        (lambda head, public, secret: f"{public}\n{secret[:-1]}", "characters"),
        (lambda head, public, secret: f"{public}\n{secret[:-1]}~", "not Z85"),
        (lambda head, public, secret: f"{public}\nsecret {new_pair().secret.decode()}", "belong together"),
        (lambda head, public, secret: f"{public}\n{secret}\n\udcff", "not text"),
        (lambda head, public, secret: f"{public}\n{secret}\n# {'x' * 5000}", "longer than"),
    ],
)
def test_damaged_key_files_are_refused_without_showing_the_secret(tmp_path: Path, damage: Damage, word: str) -> None:
    path = tmp_path / "k"
    pair = make_key_file(path)
    path.write_bytes(damage(*path.read_text().splitlines()).encode(errors="surrogateescape"))
    with pytest.raises(KeyFileError, match=word) as refused:
        read_key_file(path)
    assert pair.secret.decode()[:10] not in str(refused.value)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        node_keys(str(tmp_path))


def test_secrets_stay_out_of_reprs() -> None:
    pair = new_pair()
    assert pair.secret.decode() not in repr(pair) + str(pair) + f"{[pair]}"


def test_allow_files_take_notes_days_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "list"
    keys = [new_pair().public.decode() for _ in range(3)]
    allow(path, keys[0])
    allow(path, keys[1], note="the billing job")
    allow(path, keys[2], until=date(2030, 12, 31), note="a guest")
    with path.open("a") as file:
        file.write("\n#\n# a comment\n   \n")
    last_s = int(datetime(2031, 1, 1, tzinfo=UTC).timestamp()) - 1
    assert read_allow_file(path) == (
        Allowed(z85.decode(keys[0].encode()), NEVER, ""),
        Allowed(z85.decode(keys[1].encode()), NEVER, "the billing job"),
        Allowed(z85.decode(keys[2].encode()), last_s, "a guest"),
    )


@given(st.binary(min_size=32, max_size=32))
def test_no_key_looks_like_a_comment(key: bytes) -> None:
    assert not z85.encode(key).startswith(b"#")


@pytest.mark.parametrize(
    "line", ["short", "x" * 41, "é" * 40, f"{'0' * 40} until=soon", f"{'0' * 40} until=9999-12-31"]
)
def test_bad_lines_are_named_by_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list"
    path.write_text(f"# head\n{line}\n")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match="list:2: "):
        read_allow_file(path)


def test_allow_refuses_what_it_could_not_read_back(tmp_path: Path) -> None:
    for bad in ({"public": "short"}, {"public": "0" * 40, "note": "two\nlines"}):
        with pytest.raises(KeyFileError):
            allow(tmp_path / "list", **bad)  # type: ignore[arg-type]
    assert not (tmp_path / "list").exists()


def test_the_stamp_changes_with_the_files(tmp_path: Path) -> None:
    assert allow_stamp(str(tmp_path)) == ((0, 0, 0), (0, 0, 0))
    make_node_dir(tmp_path / "curve")
    stamps = {allow_stamp(str(tmp_path / "curve"))}
    allow(tmp_path / "curve" / PEERS_ALLOW, new_pair().public.decode())
    stamps.add(allow_stamp(str(tmp_path / "curve")))
    (tmp_path / "curve" / CLIENTS_ALLOW).unlink()
    stamps.add(allow_stamp(str(tmp_path / "curve")))
    assert len(stamps) == 3
