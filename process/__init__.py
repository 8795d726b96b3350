"""What every process of ours does alike, whatever its work: traces, logs, reflection.

`server`, `fraud_worker` and `clients` may import it; it imports none of them, and must not know what they do.
"""
