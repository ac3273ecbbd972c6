"""What is done with a run that is there: open it, predict with it, export it."""
