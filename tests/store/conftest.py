"""The store's tests share `pack_kit`."""
