"""State in fewer bytes, and bfloat16 parameters: how numbers are kept (``states.h``, ``codes.py``), and who may ask."""
