"""Where settings come from: layers of values merged into one NodeConfig, with the origin of each kept.

Why: a store that drops flags once a file is given surprises people for years; here every layer always counts.
Order, later wins: defaults < topology file (addresses of this store) < configuration file < environment < flags.
Invariants: an unknown key is an error that names the nearest known one, whatever layer it is in; a value may be
written with a unit wherever the field's name ends in one ("200ms" for tick_ms, "64MiB" for segment_bytes).
Not here: what a field means and which values go together (nokv.config).
"""

import difflib
import tomllib
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from nokv.config import ConfigError, NodeConfig
from nokv.config_rules import check
from nokv.topology import Topology, TopologyError, parse

ENV_PREFIX: Final = "NOKV_"
ENV_RESERVED: Final = frozenset({"NOKV_URL", "NOKV_CONFIG"})
"""Variables with our prefix that are no settings: the client's URL and the path of the configuration file."""
FILE_DEFAULT: Final = "nokv.toml"
DEFAULT_ORIGIN: Final = "default"

_MS: Final = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class Layer(Struct, frozen=True):
    """Values of one source by dotted path. `origins` says where each stands, e.g. "nokv.toml" or "--set"."""

    values: dict[str, object]
    origins: dict[str, str]


class Settings(Struct, frozen=True):
    """The checked outcome: configuration, where each field's value came from, and the topology if a file was named."""

    config: NodeConfig
    origins: dict[str, str]
    topology: Topology | None
    sources: tuple[str, ...]
    """One phrase for each layer that set something, for the startup line."""


def load(
    *, config_path: str | None, environ: Mapping[str, str], flags: Mapping[str, object], sets: Sequence[str], cwd: Path
) -> Settings:
    """Read the configuration file and the topology and merge all layers.

    `config_path` (from --config) wins over $NOKV_CONFIG, that over ./nokv.toml, which alone may be missing. `flags`
    holds dotted paths of flags that were given; `sets` the texts of --set.

    Raises:
        ConfigError: a file that cannot be read, and everything `merge` and `check` refuse.
    """
    chosen = config_path or environ.get("NOKV_CONFIG") or ""
    path = cwd / (chosen or FILE_DEFAULT)
    layers = []
    sources = ["defaults"]
    if chosen or path.exists():
        layers.append(file_layer(_read(path), chosen or FILE_DEFAULT))
        sources.append(chosen or FILE_DEFAULT)
    env = env_layer(environ)
    given = flag_layer(flags, sets)
    for name, layer in (("env", env), ("flags", given)):
        layers.append(layer)
        if layer.values:
            count = len(layer.values)
            sources.append(f"{name} ({count} key{'s' if count != 1 else ''})")
    config, origins = merge(layers)
    topology = None
    if config.node.topology:
        topology = read_topology(cwd / config.node.topology)
        config, origins = merge([topology_layer(topology, config.node.store_id), *layers])
        sources.insert(1, "topology")
    check(config)
    return Settings(config, origins, topology, tuple(sources))


def read_topology(path: Path) -> Topology:
    """The topology in a file.

    Raises:
        ConfigError: it cannot be read or is none; the path is node.topology's.
    """
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise ConfigError("node.topology", f"{path}: {error.strerror}") from error
    except TopologyError as error:
        raise ConfigError("node.topology", f"{path}: {error}") from error


# ---- layers ---------------------------------------------------------------------------------------------------------


def file_layer(text: str, name: str) -> Layer:
    """Values of a TOML file: one table for each section.

    Raises:
        ConfigError: not TOML (JSON is refused by this too), or a table nested deeper than sections are.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("", f"{name}: not TOML: {error}") from error
    values: dict[str, object] = {}
    for section, content in document.items():
        if not isinstance(content, dict):
            raise ConfigError(section, f"{name}: a setting outside of any section{_hint(section)}")
        for key, value in content.items():
            values[f"{section}.{key}"] = value
    return Layer(values, dict.fromkeys(values, name))


def env_layer(environ: Mapping[str, str]) -> Layer:
    """NOKV_RAFT__ELECTION_TICKS=10 sets raft.election_ticks.

    Raises:
        ConfigError: a variable that names a section but has one underscore behind it.
    """
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in ENV_RESERVED:
            continue
        section, mark, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if not mark:
            if section.partition("_")[0] in NodeConfig.__struct_fields__:
                raise ConfigError("", f"{name}: two underscores stand between section and setting")
            continue  # NOKV_VERSION and the like: set by images and orchestrators for themselves
        values[f"{section}.{key}"] = environ[name]
        origins[f"{section}.{key}"] = f"env {name}"
    return Layer(values, origins)


def flag_layer(flags: Mapping[str, object], sets: Iterable[str]) -> Layer:
    """Flags by dotted path, then --set a.b=c, later ones winning.

    Raises:
        ConfigError: a --set without "=".
    """
    values: dict[str, object] = dict(flags)
    origins = dict.fromkeys(values, "flag")
    for text in sets:
        path, mark, value = text.partition("=")
        if not mark:
            raise ConfigError("", f"--set {text!r}: write section.key=value")
        values[path.strip()] = value.strip()
        origins[path.strip()] = "--set"
    return Layer(values, origins)


def topology_layer(topology: Topology, store_id: int) -> Layer:
    """This store's addresses as the topology names them.

    Raises:
        ConfigError: the topology does not list this store.
    """
    for store in topology.stores:
        if store.id == store_id:
            values: dict[str, object] = {"listen.client": store.client_addr, "listen.peer": store.peer_addr}
            return Layer(values, dict.fromkeys(values, "topology"))
    known = ", ".join(str(store.id) for store in topology.stores)
    raise ConfigError("node.store_id", f"{store_id} is not in the topology, which lists {known}")


# ---- merging --------------------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """Every dotted path of NodeConfig with its type."""
    paths: dict[str, Any] = {}
    for section, kind in get_type_hints(NodeConfig).items():
        for name, field_type in get_type_hints(kind).items():
            paths[f"{section}.{name}"] = field_type
    return paths


def flatten(config: NodeConfig) -> dict[str, object]:
    """Every dotted path with its value."""
    return {path: getattr(getattr(config, path.split(".")[0]), path.split(".")[1]) for path in schema()}


def merge(layers: Sequence[Layer]) -> tuple[NodeConfig, dict[str, str]]:
    """Defaults overlaid with `layers` in order, and the origin of every path. Relations are not checked yet.

    Raises:
        ConfigError: an unknown path or a value of the wrong type.
    """
    paths = schema()
    sections: dict[str, dict[str, object]] = {name: {} for name in NodeConfig.__struct_fields__}
    origins = dict.fromkeys(paths, DEFAULT_ORIGIN)
    for layer in layers:
        for path, raw in layer.values.items():
            origin = layer.origins[path]
            if path not in paths:
                raise ConfigError(path, f"unknown setting ({origin}){_hint(path)}")
            section, _, name = path.partition(".")
            sections[section][name] = convert(path, raw, paths[path], origin)
            origins[path] = origin
    return msgspec.convert(sections, NodeConfig), origins


def convert(path: str, raw: object, wanted: Any, origin: str) -> object:
    """`raw` as the field's type; texts may carry a unit.

    Raises:
        ConfigError: it cannot be read so.
    """
    value = raw
    if isinstance(raw, str) and not _accepts_text(wanted):
        value = _with_unit(path, raw.strip())
    try:
        converted: object = msgspec.convert(value, wanted, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise ConfigError(path, f"{raw!r} ({origin}): {error}") from error
    return converted


def _accepts_text(wanted: Any) -> bool:
    if get_origin(wanted) in (Union, types.UnionType):
        return str in get_args(wanted)
    return wanted is str


def _with_unit(path: str, text: str) -> object:
    """The number in "200ms" or "64MiB", in the unit that the field's name ends in; other texts as they are."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text[len(digits) :]
    if not unit or not digits.strip():
        return text
    name = path.rpartition(".")[2].removesuffix("_max").removesuffix("_min")
    try:
        number = float(digits)
    except ValueError:
        return text
    if name.endswith("_ms") and unit in _MS:
        return _whole(number * _MS[unit])
    if name.endswith("_s") and unit in _MS:
        return _whole(number * _MS[unit] / 1000)
    if "_bytes" in name and unit in _BYTES:
        return _whole(number * _BYTES[unit])
    return text


def _whole(number: float) -> int | float:
    return int(number) if number.is_integer() else number


def _hint(path: str) -> str:
    """ "; did you mean raft.election_ticks?", or nothing where nothing is near."""
    known = list(schema())
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:
        last = path.rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == last]
    if not near:
        names = {name.rpartition(".")[2]: name for name in known}
        near = [names[found] for found in difflib.get_close_matches(path.rpartition(".")[2], list(names), n=1)]
    return f"; did you mean {near[0]}?" if near else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("", f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError("", f"{path}: not UTF-8 text") from error
