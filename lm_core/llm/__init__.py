"""A live language model: its activations, concept directions found in them, and steered generation."""
