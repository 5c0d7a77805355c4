"""Training of supernets, and the data sets that models are bundled for."""
