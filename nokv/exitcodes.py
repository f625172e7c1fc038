"""Exit codes of every command and process: scripts and service managers decide by them."""

from typing import Final

EXIT_FINE: Final = 0
EXIT_UNEXPECTED: Final = 1
EXIT_USAGE: Final = 2
EXIT_DEGRADED: Final = 3
"""Answered, but degraded, or a check or an assertion failed."""
EXIT_UNREACHABLE: Final = 4
"""Nobody answered, or not in time."""
EXIT_CONFIG: Final = 5
EXIT_DATA_DIR: Final = 6
"""The data folder is locked, belongs to another node, or has a newer format."""
EXIT_PORT: Final = 7
"""A port is taken or may not be used."""
EXIT_INTERRUPTED: Final = 130
