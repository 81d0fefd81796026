"""Rules, and the assessment of an observed node by them."""
