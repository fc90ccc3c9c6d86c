"""How the network learns, with labels and without."""
