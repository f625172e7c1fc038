"""`nokv-node config show | check | schema | default`: settings, where they come from, and what they may be."""

import json
import os
from pathlib import Path

import click
import msgspec

from nokv.cli.entry import CommandError
from nokv.cli.options import json_option
from nokv.cli.report import emit_json, table
from nokv.config import ConfigError, NodeConfig
from nokv.config_rules import check
from nokv.exitcodes import EXIT_CONFIG
from nokv.node.settings import Settings, file_layer, flatten, load, merge, read_topology


@click.group("config")
def config() -> None:
    """Show, check and explain settings."""


@config.command("show")
@click.option("--config", "config_path", metavar="FILE", help="TOML; else $NOKV_CONFIG, else ./nokv.toml.")
@click.option("--set", "sets", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")
@click.option("--origin", is_flag=True, help="Where each value comes from.")
@json_option
def show(config_path: str | None, sets: tuple[str, ...], origin: bool, as_json: bool) -> None:
    """The effective settings of a node started here with these options."""
    settings = _load(config_path, sets)
    values = flatten(settings.config)
    if as_json:
        fields: dict[str, object] = {"values": values, "sources": settings.sources}
        if origin:
            fields["origins"] = settings.origins
        emit_json("nokv.config.v1", fields)
        return
    if origin:
        rows = [(path, _toml(value), settings.origins[path]) for path, value in values.items()]
        click.echo(table(("SETTING", "VALUE", "ORIGIN"), rows))
        return
    click.echo(as_toml(settings.config), nl=False)


@config.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def check_file(file: Path) -> None:
    """Whether a configuration (TOML) or topology (JSON) file is sound; exit 5 with the reason if not."""
    try:
        if file.suffix == ".json":
            topology = read_topology(file)
            click.echo(f"{file}: {len(topology.stores)} stores, {len(topology.regions)} regions", err=True)
            return
        merged, _origins = merge([file_layer(file.read_text(encoding="utf-8"), str(file))])
        check(merged)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {error}", EXIT_CONFIG) from error
    except ConfigError as error:
        raise CommandError(str(error), EXIT_CONFIG) from error
    click.echo(f"{file}: sound", err=True)


@config.command("schema")
def schema() -> None:
    """JSON Schema of the settings."""
    click.echo(json.dumps(msgspec.json.schema(NodeConfig), indent=2))


@config.command("default")
def default() -> None:
    """A configuration file with every setting at its default."""
    click.echo(as_toml(NodeConfig()), nl=False)


def as_toml(values: NodeConfig) -> str:
    """A configuration file that sets everything."""
    lines = []
    for section in values.__struct_fields__:
        lines.append(f"[{section}]")
        content = getattr(values, section)
        lines.extend(f"{name} = {_toml(getattr(content, name))}" for name in content.__struct_fields__)
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _toml(value: object) -> str:
    """TOML of text, numbers and truth values: the same as JSON for these."""
    return json.dumps(value)


def _load(config_path: str | None, sets: tuple[str, ...]) -> Settings:
    try:
        return load(config_path=config_path, environ=os.environ, flags={}, sets=sets, cwd=Path.cwd())
    except ConfigError as error:
        raise CommandError(str(error), EXIT_CONFIG) from error
