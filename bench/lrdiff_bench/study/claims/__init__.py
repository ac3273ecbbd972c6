"""Published claims about rates, one TOML file each, and what the studies here say of them."""
