"""Reading: files of a folder through the parser, each with what is in it or why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser


def each(
    folder: Folder, parser: Parser, names: Sequence[str], reader: str = "containers", **options: str
) -> Iterator[tuple[int, Parsed | ValueError | OSError]]:
    """The place of a name in `names`, and its file's content or the error; those that may not be opened come first."""
    there = []
    for place, name in enumerate(names):
        try:
            there.append((place, folder.file(name)))
        except (ValueError, OSError) as error:
            yield place, error
    answers = parser.parse((path for _, path in there), reader, **options)
    yield from ((place, answer) for (place, _), answer in zip(there, answers, strict=True))
