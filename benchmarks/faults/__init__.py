"""Kills, full disks, folders that vanish and crowds of writers, counted."""
