"""The score machines of Kamb & Ganguli (2025): posterior means over training patches, with their provenance."""
