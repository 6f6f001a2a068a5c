"""The `breccia` and `breccia-opt` commands. Each command's work is imported when the command runs, not before."""
