"""The simulated population: its world, its honest habits and its families of abuse; `fraud_worker.simulator` mixes.

Must not know features, models or databases: a model has to find abuse in the log alone.
"""
