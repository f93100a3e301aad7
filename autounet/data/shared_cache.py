"""Who uses a cache that several work folders share: nobody's entries are removed for somebody else's."""

from pathlib import Path

from autounet.data.prepared import PreparedTable
from autounet.store.cache import key
from autounet.store.files import publish_json
from autounet.store.strict import read_json, read_value
from planners.errors import UserError

USERS = "users"


def enrol(cache: Path, work: Path) -> None:
    """Note in the cache where the tables of this work folder lie."""
    tables = str((work / "cache").absolute())
    path = cache / USERS / f"{key(tables)}.json"
    if not path.is_file():
        publish_json(path, {"tables": tables})


def used_by_others(cache: Path, work: Path) -> set[str]:
    """Entries that the tables of other work folders name. A folder that is gone needs none."""
    own, used = str((work / "cache").absolute()), set[str]()
    for record in sorted((cache / USERS).glob("*.json")):
        plain = read_json(record)
        tables = plain.get("tables") if isinstance(plain, dict) else None
        if not isinstance(tables, str):
            raise UserError(f"{record} does not say whose it is", "remove it, and prepare every dataset that uses this cache once more")
        if tables != own:
            for path in sorted(Path(tables).glob("*.json")):
                used.update(entry for _, entry in read_value(path, PreparedTable).cases)
    return used
