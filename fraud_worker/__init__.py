"""The fraud worker: features, models and probabilities. It knows nothing of cards' states, policies or money."""
