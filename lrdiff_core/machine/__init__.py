"""What is built for the machine that is here, and what to do when its memory runs out."""
