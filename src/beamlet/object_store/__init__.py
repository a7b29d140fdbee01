"""The node's shared-memory store: who has which bytes, for how long, and the memory itself."""
