"""Names of files that a foreign file asks for: which of them lie below its own folder."""

MOST_PATH = 1024  # characters


def path_problem(name: str) -> str | None:
    """Why a name from a foreign file is no path below its folder; None if it is one."""
    if not name or len(name) > MOST_PATH:
        return f"a path has 1 to {MOST_PATH} characters"
    if "\0" in name or "\\" in name or not name.isprintable():
        return "NUL, a backslash or another unprintable character in the path"
    if name.startswith("/") or (len(name) > 1 and name[1] == ":"):
        return "an absolute path"
    return "a path upwards" if ".." in name.split("/") else None
