"""A module as it is judged: signature, precision, outputs, the float64 twin."""
