"""What lets code written for other engines run here."""
