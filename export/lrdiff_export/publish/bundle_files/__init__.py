"""Files that stand in every proof bundle as they are: the verifiers, which need nothing of this package."""
