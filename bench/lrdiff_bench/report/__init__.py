"""What commands draw with: tables, pages, figures, JSON."""
