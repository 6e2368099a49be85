"""Strand (d), theories of hyperparameters: how the learning rate must change with width and with batch size.

Maximal update parameterisation after Yang et al. (arXiv 2203.03466), linear scaling rule after Goyal et al. (arXiv
1706.02677).
"""

from pages.components import exhibit

exhibit.strand_page(
    "Hyperparameters",
    "A learning rate that is good for a small network, or with a small batch, serves a large one if it is scaled as "
    "theory says, and misses if it isn't.",
    ("d1", "d2"),
)
