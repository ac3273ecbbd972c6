"""The same prediction, and the same training, everywhere: commands, screens, pages."""
