"""Rendering: the sharp video photographed again with a wide aperture."""
