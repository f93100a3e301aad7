"""The metrics against MONAI and the surface-distance package, where they are installed: `pip install monai surface-distance`."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage

from autounet.metrics.lesions import lesion_scores
from autounet.metrics.overlap import joint_counts
from autounet.metrics.surface import surface_scores

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 0.7, 1.2), (0.5, 0.5, 4.0)]


def pair(seed):
    """Two blobby masks on an odd grid; some are tiny, some touch the border, some hold almost everything."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(v) for v in rng.integers(6, 22, 3))
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    truth = field > np.quantile(field, rng.choice([0.03, 0.5, 0.9, 0.99]))
    other = field + 0.3 * field.std() * rng.normal(size=shape)
    predicted = other > np.quantile(other, rng.choice([0.05, 0.5, 0.9, 0.99]))
    if seed % 5 == 0:  # one voxel each
        truth, predicted = (np.zeros(shape, bool) for _ in range(2))
        truth[tuple(int(rng.integers(0, s)) for s in shape)] = True
        predicted[tuple(int(rng.integers(0, s)) for s in shape)] = True
    return truth, predicted


@pytest.fixture(scope="module")
def monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("monai.metrics", exc_type=ImportError)
    return metrics


def tensors(*masks):
    import torch

    return [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in masks]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(10))
def test_distances_and_the_voxel_nsd_are_those_of_monai(monai, seed, spacing):
    truth, predicted = pair(seed)
    found = surface_scores(truth, predicted, spacing, 1.3)
    y, y_pred = tensors(truth, predicted)
    common = {"include_background": True, "spacing": list(spacing)}
    assert_allclose(found.hd, monai.compute_hausdorff_distance(y_pred, y, **common).item(), rtol=1e-5)
    assert_allclose(found.hd95, monai.compute_hausdorff_distance(y_pred, y, percentile=95, **common).item(), rtol=1e-5)
    assert_allclose(found.assd, monai.compute_average_surface_distance(y_pred, y, symmetric=True, **common).item(), rtol=1e-5)
    assert_allclose(found.nsd_voxel, monai.compute_surface_dice(y_pred, y, class_thresholds=[1.3], **common).item(), rtol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_overlap_is_that_of_monai(monai, seed):
    truth, predicted = pair(seed)
    counts = joint_counts(truth.astype(np.uint8), predicted.astype(np.uint8)).of([1])
    y, y_pred = tensors(truth, predicted)
    assert_allclose(counts.dice, monai.compute_dice(y_pred, y, include_background=True).item(), rtol=1e-6)
    assert_allclose(counts.iou, monai.compute_iou(y_pred, y, include_background=True).item(), rtol=1e-6)
    matrix = monai.get_confusion_matrix(y_pred, y, include_background=True)
    ours = {"sensitivity": counts.sensitivity, "specificity": counts.specificity, "precision": counts.precision, "f1 score": counts.dice}
    for theirs, value in ours.items():
        assert_allclose(value, monai.compute_confusion_matrix_metric(theirs, matrix).item(), rtol=1e-6, err_msg=theirs)


@pytest.mark.parametrize("seed", range(5))
def test_panoptic_quality_is_that_of_monai(monai, seed):
    import torch

    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=(14, 20, 20)), 1.2) > 0.25
    predicted = truth ^ (rng.random(truth.shape) < 0.02)
    labelled = [torch.from_numpy(ndimage.label(mask, np.ones((3, 3, 3)))[0]) for mask in (predicted, truth)]
    expected = monai.compute_panoptic_quality(*labelled, metric_name="pq", match_iou_threshold=0.5).item()
    assert_allclose(lesion_scores(truth, predicted, (1.0, 1.0, 1.0)).panoptic, expected, rtol=1e-4)  # theirs adds 1e-6 below the line


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(10))
def test_the_area_nsd_is_that_of_the_surface_distance_package(seed, spacing):
    package = pytest.importorskip("surface_distance")
    truth, predicted = pair(seed)
    theirs = package.compute_surface_distances(truth, predicted, spacing)
    for tolerance in (0.0, 0.7, 2.0):
        expected = package.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert_allclose(surface_scores(truth, predicted, spacing, tolerance).nsd_area, expected, rtol=1e-6)
