"""The one gate from a module to files under their final names."""
