"""Command lines of the scripts: `key=value` words, checked against a dataclass, and one clear error each.

Hydra and omegaconf, which take a third of a second, are imported where Ctrl-C is answered already.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, TypeVar

from metanet.errors import BAD_DATA, exit_code

Options = TypeVar("Options")
REQUIRED: Any = "???"  # omegaconf's mark of a value that the command line must give


def told(error: Exception) -> str:
    """What hydra found wrong with the command line, in one line."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        close = get_close_matches(name, error.options, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{group}={name}: expected one of {', '.join(error.options)}{hint}"
    if unknown := re.match(r"Could not (?:override|append to config.*?) '(\S+)'", str(error)):
        return f"{unknown[1]}= on the command line: no such option; --help shows all that there are"
    return f"{' '.join(str(error).partition('See https')[0].split())} (on the command line); expected key=value"


@contextlib.contextmanager
def one_clear_error() -> Iterator[None]:
    """A user's mistake (ValueError, OSError) becomes a line and an exit code; METANET_DEBUG=1 shows the traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command again goes on from here", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, *_hydras_errors()) as error:
        if os.environ.get("METANET_DEBUG"):
            raise
        hydras = isinstance(error, _hydras_errors())
        print(f"error: {told(error) if hydras else error}", file=sys.stderr)
        sys.exit(BAD_DATA if hydras else exit_code(error))


def _hydras_errors() -> tuple[type[Exception], ...]:
    """The class of all errors of hydra, if it has been imported."""
    return (sys.modules["hydra.errors"].HydraException,) if "hydra.errors" in sys.modules else ()


def parse(options: type[Options], words: list[str]) -> Options:
    """The dataclass `options` filled from `key=value` words; nested keys are written `a.b=value`.

    Raises:
        ValueError: a word that is no `key=value`, an unknown or a missing key, a value of the wrong type.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [field.name for field in fields(options)]  # type: ignore[arg-type]
    for word in words:
        key, equals, _ = word.partition("=")
        top = key.split(".")[0]
        if not equals or top not in known:
            close = get_close_matches(top, known, n=1)
            hint = f"; did you mean {close[0]}=?" if close else ""
            raise ValueError(f"{word!r} on the command line: expected key=value with a key of {', '.join(known)}{hint}")
    try:
        filled = OmegaConf.merge(OmegaConf.structured(options), OmegaConf.from_cli(words))
        missing = OmegaConf.missing_keys(filled)
        if missing:
            raise ValueError(f"missing on the command line: {', '.join(f'{key}=...' for key in sorted(missing))}")
        return OmegaConf.to_object(filled)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = str(error.full_key or "").split(".")[0].split("[")[0]
        word = next((word for word in words if key and word.startswith((f"{key}=", f"{key}."))), " ".join(words))
        kind = next((field.type for field in fields(options) if field.name == key), None)  # type: ignore[arg-type]
        expected = f"; expected {getattr(kind, '__name__', kind) if isinstance(kind, type) else kind}" if kind else ""
        raise ValueError(f"{word!r} on the command line: {str(error).splitlines()[0]}{expected}") from error


def run(main: Callable[[Options], object], options: type[Options]) -> None:
    """`main(options)` from sys.argv; `--help` prints the docstring of main's module and the options with defaults."""
    with one_clear_error():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print((sys.modules[main.__module__].__doc__ or "").strip())
            print("\noptions:")
            for field in fields(options):  # type: ignore[arg-type]
                required = field.default in (MISSING, REQUIRED) and field.default_factory is MISSING
                default = field.default_factory() if field.default_factory is not MISSING else field.default
                note = field.metadata.get("help", "")
                print(f"  {field.name + '=' + ('...' if required else str(default)):28s} {note}")
            return
        main(parse(options, sys.argv[1:]))
