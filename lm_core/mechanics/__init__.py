"""The exhibits of learning mechanics: one module a law, a prediction and an experiment with a score between them."""
