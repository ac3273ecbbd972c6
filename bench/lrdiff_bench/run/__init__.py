"""The main job and what people do with a run: train, predict, export, rates, range test."""
