"""normlib's asv suite. It uses the public functions alone, since it runs on old commits."""
