"""Phantoms to look at: a contact sheet for the documentation."""

import io

import numpy as np

from autounet.phantoms.catalogue import phantom

PALETTE = ((0, 0, 0), (230, 97, 1), (94, 160, 250), (50, 190, 110), (240, 60, 120), (250, 220, 60), (170, 110, 240))


def contact_sheet(kind: str, *, seed: int = 0, cases: int = 4) -> bytes:
    """A PNG of the middle of some cases, image above, truth below: for the documentation, and to look at."""
    from PIL import Image

    columns = []
    for index in range(cases):
        made = phantom(kind, index, seed=seed, size=256 if kind == "slides" else None)
        areas = (made.label_zyx > 0).sum(axis=(1, 2))
        at = int(areas.argmax()) if areas.any() else made.label_zyx.shape[0] // 2
        picture = made.image_czyx[:, at].astype(np.float32)
        low, high = (float(np.percentile(picture, share)) for share in (1, 99.5))
        gray = np.clip((picture - low) / max(high - low, 1e-6) * 255, 0, 255)
        shown = np.moveaxis(gray if len(gray) == 3 else np.repeat(gray[:1], 3, 0), 0, -1)
        colours = np.array(PALETTE, np.float32)[made.label_zyx[at] % len(PALETTE)]
        mixed = np.where(made.label_zyx[at][..., None] > 0, 0.45 * shown + 0.55 * colours, shown)
        tile = np.concatenate([shown, mixed]).astype(np.uint8)
        columns.append(np.asarray(Image.fromarray(tile).resize((192, 384), Image.Resampling.NEAREST)))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(columns, axis=1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
