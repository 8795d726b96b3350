"""Recorded decisions, decided again: from the receipt alone, by the rules that the server goes by. Must not write."""
