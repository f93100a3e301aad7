"""Pure functions on arrays: crop, orient, normalise, resample, label maps, class locations."""
