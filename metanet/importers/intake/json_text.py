"""JSON of foreign files. Children read it too, so nothing large is imported here."""

from __future__ import annotations

import json
from typing import Any


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one name for two values is an error, because readers differ in which they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two values are called {next(name for name in names if names.count(name) > 1)[:80]!r}")
    return found


def parse_json(text: str, where: str) -> Any:
    """Raises ValueError, which names `where`, for what is no JSON."""
    try:
        found = json.loads(text, object_pairs_hook=distinct)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair is no text: UnicodeEncodeError
        return found
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no readable JSON ({error})") from error
