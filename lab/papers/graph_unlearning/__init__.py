"""Graph unlearning (GraphEraser, Chen et al., CCS 2022)."""
