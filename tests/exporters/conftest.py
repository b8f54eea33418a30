"""What is exported is imported again here, by the process that tests of importers share."""

from tests.importers.conftest import imports_share_the_parser, parser

__all__ = ["imports_share_the_parser", "parser"]
