"""Diffusion: the noise schedule, the paper's convolutional networks, their training and the DDIM loop."""
