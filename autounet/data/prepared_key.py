"""The part of a plan that prepared arrays depend on: whatever else changes, they are still right."""

from dataclasses import replace
from json import dumps

from autounet.data.dataset import Case, Dataset
from autounet.data.prepared import grain_of
from autounet.store.cache import key
from autounet.store.digest import digest_file
from planners.plan import Configuration, Plan
from planners.strict_json import to_plain

RECIPE = "prepared 1"  # raised whenever the same inputs would give other arrays


def plan_key(plan: Plan, configuration: Configuration) -> str:
    """The same for two plans if and only if they prepare every case alike."""
    spacing = configuration.spacing_zyx_mm
    resampling = configuration.resampling
    parts = {
        "orientation": plan.orientation,
        "axis_order": plan.axis_order,
        # Names of channels and classes change nothing in the arrays, their order does.
        "channels": [
            (c.scheme, c.mask_outside, *((c.clip_low, c.clip_high, c.mean, c.std) if c.scheme == "ct" else ())) for c in plan.channels
        ],
        "labels": [c.value for c in plan.labels.classes],
        "ignore": plan.labels.ignore,
        # Slices seen one by one keep their distance, whatever the configuration calls it.
        "spacing": spacing if configuration.dimensions == 3 else (None, *spacing[1:]),
        "orders": (resampling.image_order, resampling.label_order, resampling.thick_axis, resampling.thick_axis_order),
        "grain": grain_of(configuration.patch_zyx),
    }
    return key(RECIPE, dumps(to_plain(parts), sort_keys=True))


def case_key(dataset: Dataset, case: Case, plan_part: str) -> str:
    """Names what the bytes of a case's files become under a plan, wherever the files lie and whatever the case is called."""
    content = {hashed.path: hashed.sha256 for hashed in dataset.file_hashes}
    files = [*case.images, *([case.label] if case.label else []), *(mask.file for mask in case.masks)]
    read_as = [to_plain(replace(file, path=_content(dataset, file.path, content))) for file in files]
    meaning = {
        "files": read_as,
        "masks": [mask.value for mask in case.masks],
        "annotated": case.annotated,
        "style": dataset.label_style,
        "reading": to_plain(dataset.reading),
        "classes": [(c.name, c.value) for c in dataset.labels.classes],
    }
    return key(plan_part, dumps(meaning, sort_keys=True))


def _content(dataset: Dataset, path: str, content: dict[str, str]) -> str:
    known = content.get(path)
    return known if known is not None else digest_file(dataset.folder / path).sha256
