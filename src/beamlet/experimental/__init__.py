"""Names Ray has in ``ray.experimental``; here only ``internal_kv``."""
