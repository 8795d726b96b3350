"""The fraud worker: features, models and probabilities. It knows nothing of cards' states, policies or money."""

from fraud_worker.openmp import load_openmp

load_openmp()  # before any module of the package can import LightGBM
