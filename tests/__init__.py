"""Tests of breccia; they mirror the package."""
