"""Rules for certificates, files and services, and the assessment of an observed node by these rules."""
