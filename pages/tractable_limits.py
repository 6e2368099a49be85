"""Strand (b), tractable limits: wide networks move their weights less and less, and become their linearisation.

After Jacot et al. (arXiv 1806.07572), Lee et al. (arXiv 1902.06720) and Chizat, Oyallon & Bach (arXiv 1812.07956).
"""

from pages.components import exhibit

exhibit.strand_page(
    "Tractable limits",
    "Take the width to infinity and a network becomes a kernel machine that can be solved; turn the output's scale "
    "down and it leaves that limit and learns features.",
    ("b",),
)
