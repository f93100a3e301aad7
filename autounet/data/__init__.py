"""From any folder of images and masks to an index, its findings, its numbers and its folds."""
