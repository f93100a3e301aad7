"""A process of its own that writes a checkpoint in torch's format: tensors and plain values, nothing else.

Started as `python -I save_child.py WEIGHTS.safetensors FACTS.json OUT.pth`. It only writes; it opens no foreign file.
"""

import json
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Convert."""
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    import torch

    from autounet.store.weights import load_tensors

    facts = json.loads(Path(argv[2]).read_text())
    axes = tuple(facts.pop("mirror_axes"))
    torch.save({"network_weights": load_tensors(Path(argv[1])), "inference_allowed_mirroring_axes": axes, **facts}, argv[3])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
