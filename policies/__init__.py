"""The platforms' rules: one JSON file each, and their schema. Data only."""
