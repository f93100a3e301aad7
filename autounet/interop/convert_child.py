"""A process of its own that opens a foreign checkpoint, the one place where such a file is read.

Started as `python -I convert_child.py IN OUT`. It may import, read IN and write below OUT; before IN is
opened an audit hook takes everything else away: sockets, processes, writes elsewhere, later imports of
code from files. Only tensors and plain values are unpickled (`weights_only`), and only by a torch whose
safe unpickler is not known to be broken.
"""

import json
import sys
from pathlib import Path
from typing import Any

LEAST_TORCH = (2, 10)  # CVE-2025-32434 (up to 2.5.1) and CVE-2026-24747 (below 2.10) get past `weights_only`
REFUSED = ("socket.", "subprocess.", "os.exec", "os.fork", "os.spawn", "os.system", "os.posix_spawn", "os.remove", "os.rename",
           "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.putenv", "shutil.", "ctypes.dlopen",
           "webbrowser.", "urllib.", "ftplib.", "smtplib.", "pty.", "signal.pthread_kill")  # fmt: skip
RENAMED_BY_US = ("os.rename", "os.chmod", "os.remove")  # publishing below OUT needs these; the path is checked


def main(argv: list[str]) -> int:
    """Convert, and print nothing but the reason of a failure."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    source, out = Path(argv[1]).resolve(), Path(argv[2]).resolve()
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < LEAST_TORCH:
        sys.stderr.write(f"torch {torch.__version__} cannot open foreign checkpoints safely; install torch 2.10 or later")
        return 3
    tensors, facts = _read(source, out)
    from autounet.store.weights import save_tensors

    save_tensors(out / "weights.safetensors", tensors)
    (out / "facts.json").write_text(json.dumps(facts))
    return 0


def _read(source: Path, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np
    import torch

    import autounet.store.weights  # noqa: F401 - imported before the doors close

    multiarray: Any = sys.modules.get("numpy._core.multiarray") or sys.modules["numpy.core.multiarray"]

    plain_numbers = [
        np.dtype, np.ndarray, multiarray.scalar, multiarray._reconstruct,
        *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "u1", "bool")),
    ]  # fmt: skip
    # Files of numpy 1 name the same function by its old place.
    renamed = [
        (multiarray.scalar, "numpy.core.multiarray.scalar"),
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    ]
    _close_doors(out)
    with torch.serialization.safe_globals([*plain_numbers, *renamed]):
        found = torch.load(source, map_location="cpu", weights_only=True)  # noqa: TID251 - the guarded place
    state = found["network_weights"]
    tensors = {_short(str(name)): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    arguments = found.get("init_args") or {}
    facts = {
        "configuration": str(arguments.get("configuration", "")),
        "trainer": str(found.get("trainer_name", "")),
        "mirror_axes": [int(axis) for axis in found.get("inference_allowed_mirroring_axes") or ()],
    }
    kept = {name: value for name, value in tensors.items() if ".all_modules." not in name and not name.startswith("decoder.encoder.")}
    return kept, facts


def _short(name: str) -> str:
    """Networks saved while compiled or distributed carry a prefix."""
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    return name


def _close_doors(out: Path) -> None:
    allowed = str(out)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in str(mode or "") for letter in "wax+") or (isinstance(flags, int) and flags & 0o3)
            if writes and isinstance(path, str | bytes) and not _below(path, allowed):
                raise PermissionError(f"a checkpoint tried to write {path!r}")
            return
        if event == "socket.gethostname":  # a part of the names of temporary files
            return
        if event in RENAMED_BY_US and all(_below(a, allowed) for a in arguments if isinstance(a, str | bytes | Path)):
            return
        if event.startswith(REFUSED):
            raise PermissionError(f"a checkpoint tried {event}")

    sys.addaudithook(hook)


def _below(path: Any, folder: str) -> bool:
    text = path.decode() if isinstance(path, bytes) else str(path)
    return str(Path(text).resolve()).startswith(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
