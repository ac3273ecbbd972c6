"""What ``state_format`` costs and gains: seconds and bytes (``cost``), and what is learnt (``study``)."""
