"""From a Python function to IR and to a callable: tracing, lowering, the call path and the disk cache."""
