"""The use cases, over batches of commands. Knows the nine steps and the ports; must not know the wire or Postgres."""
