"""A live page over run folders: what runs, what is done, and what broke.

`serve` opens the page on this machine alone. It reads run folders (`docs/run-folder.md`), never a live object: a
`Shelf` follows the folders it is given and keeps a `Snapshot` of each run, and reads no more than what has changed. The
sections of a run's page are those of its report. The page needs the extra ``serve``; reading the folders does not.
"""

from graftwork.serve._server import serve
from graftwork.serve._shelf import Shelf, Snapshot

__all__ = ["Shelf", "Snapshot", "serve"]
