"""Tests of the README, the pages under docs/ and the image under docker/."""
