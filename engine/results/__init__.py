"""Results that store values: in the state itself, in files, in object stores."""
