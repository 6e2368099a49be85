"""The pages: each shows one result that `lm_core.run` computed."""
