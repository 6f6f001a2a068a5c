"""`python -m breccia`: the `breccia` command."""

from __future__ import annotations

from breccia.cli.main import app

if __name__ == "__main__":
    app(prog_name="breccia")
