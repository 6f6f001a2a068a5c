"""The targets of this package: one folder each, found by its name (`breccia.target.find`)."""
