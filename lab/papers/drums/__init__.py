"""Language models as drummers (Zhang & Callison-Burch, 2023): grooves as text, continued."""
