"""What retrieval reaches outside itself: the embedding model, connectors. Decides nothing about access."""
