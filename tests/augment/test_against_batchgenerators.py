"""The statistics of our steps against batchgenerators', an independent implementation of the same list."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from autounet.augment.draw import draw
from autounet.augment.intensity import apply_effects
from autounet.rng import generator
from planners.plan import Augmentation, Step

COUNT = 250


def images():
    """The same images for both, smooth and with an odd range, so that every step leaves a trace."""
    rng = np.random.default_rng(0)
    made = rng.gamma(2.0, 1.0, (COUNT, 1, 12, 12, 12)).astype(np.float32)
    made[..., ::2] += 0.5
    return made


def traces(changed, original):
    """What a step does to one image, as numbers whose distribution can be compared."""
    difference = changed - original
    return {
        "mean": changed.mean((1, 2, 3, 4)),
        "deviation": changed.std((1, 2, 3, 4)),
        "change": np.abs(difference).mean((1, 2, 3, 4)),
        "skewness": ((changed - changed.mean((1, 2, 3, 4), keepdims=True)) ** 3).mean((1, 2, 3, 4)) / changed.std((1, 2, 3, 4)) ** 3,
    }


def ours(step, original):
    changed = torch.from_numpy(original.copy())
    plan = Augmentation(steps=(step,))
    for index, image in enumerate(changed):
        apply_effects(image, draw(plan, 1, False, generator(3, "ks", index)).effects)
    return changed.numpy()


def theirs(kind, original):
    from batchgenerators.transforms.color_transforms import (
        BrightnessMultiplicativeTransform,
        ContrastAugmentationTransform,
        GammaTransform,
    )
    from batchgenerators.transforms.noise_transforms import GaussianNoiseTransform

    step = {
        "noise": GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_sample=1),
        "brightness": BrightnessMultiplicativeTransform((0.75, 1.25), p_per_sample=1),
        "contrast": ContrastAugmentationTransform((0.75, 1.25), p_per_sample=1),
        "gamma": GammaTransform((0.7, 1.5), False, True, retain_stats=True, p_per_sample=1),
        "gamma_inverted": GammaTransform((0.7, 1.5), True, True, retain_stats=True, p_per_sample=1),
    }[kind]
    np.random.seed(4)
    return np.stack([step(data=image[None].copy())["data"][0] for image in original])


STEPS = {
    "noise": Step(kind="noise", probability=1.0, low=0.0, high=0.1),
    "brightness": Step(kind="brightness", probability=1.0, low=0.75, high=1.25),
    "contrast": Step(kind="contrast", probability=1.0, low=0.75, high=1.25),
    "gamma": Step(kind="gamma", probability=1.0, low=0.7, high=1.5),
    "gamma_inverted": Step(kind="gamma_inverted", probability=1.0, low=0.7, high=1.5),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize("kind", sorted(STEPS))
def test_a_step_changes_images_as_batchgenerators_does(kind):
    original = images()
    mine, other = traces(ours(STEPS[kind], original), original), traces(theirs(kind, original), original)
    for name in mine:
        assert ks_2samp(mine[name], other[name]).pvalue > 0.005, name


def test_the_comparison_notices_another_range():
    original = images()
    wrong = Step(kind="gamma", probability=1.0, low=0.7, high=1.2)
    mine = traces(ours(wrong, original), original)["change"]
    assert ks_2samp(mine, traces(theirs("gamma", original), original)["change"]).pvalue < 0.005
