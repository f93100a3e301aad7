"""Augmentation: what will happen is drawn first, then the box that it needs is read, then it is done."""
