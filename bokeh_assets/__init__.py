"""Dagster assets that turn ordinary videos into videos with cinema-grade bokeh."""

__version__ = "0.1.0"
