"""What `breccia demo` shows: real weights in every recipe, a real block compiled, real sentences embedded.

Files:

    weights.py    finding and reading a checkpoint; which tensors are linear weights
    encoder.py    the BERT encoder in plain NumPy: the fp32 reference
    tokenize.py   sentences to token ids
    sentences.py  the sentences
    measure.py    parts 1 and 3: errors of weights, neighbours of embeddings
    block.py      part 2: the feed-forward block, compiled
    report.py     the same results for the terminal
    plots.py      the same results as SVG
    html.py       the same results as one self-contained page
    lexer.py      colours for the IR
    run.py        the demo from beginning to end
"""
