"""What emitters of Python-like text share: names, sizes, comments."""
