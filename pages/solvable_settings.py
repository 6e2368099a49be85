"""Strand (a), solvable settings: idealised networks and kernels whose training is known in closed form.

Deep linear networks after Saxe, McClelland & Ganguli (arXiv 1312.6120), kernel learning curves after Simon et al.
(arXiv 2110.03922).
"""

from pages.components import exhibit

exhibit.strand_page(
    "Solvable settings",
    "Some networks are simple enough to solve: the whole course of training, or of learning from ever more data, is "
    "written down before anything is trained, and then it is trained.",
    ("a1", "a2"),
)
