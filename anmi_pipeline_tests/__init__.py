"""Tests of anmi_pipeline; the tree mirrors the package."""
