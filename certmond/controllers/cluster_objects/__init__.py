"""Controllers that read or write objects of the cluster that concern certificates."""
