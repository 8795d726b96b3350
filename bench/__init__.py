"""Reproducible measurements of the whole service: `python -m bench` prints one JSON line a figure.

May import everything, for it only measures; nothing imports it. Rates of a shared machine are noisy, so what is
compared is measured in turns within one run, and the medians are compared.
"""
