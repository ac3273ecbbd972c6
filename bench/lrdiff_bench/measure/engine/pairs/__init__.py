"""Two sides of one case, measured in turn: which sides, how, by which clock they are judged, and the verdict kept."""
