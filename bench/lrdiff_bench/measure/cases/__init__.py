"""What is measured: steps, trainings, exports, populations."""
